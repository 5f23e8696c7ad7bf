//! Task outcome: decided from the result of the process and the agent's report. Pure.

use fsa_model::{agent::Agent, sandboxd::TaskEnd, task::TaskState};

use crate::store::tasks::TaskResult;

pub(super) fn absent(agent: Agent) -> TaskResult {
    let (title, program) = (agent.title(), agent.name());
    failed(format!(
        "{title} is not in this project's image: install `{program}` in the sandbox, or choose an image that has it"
    ))
}

pub(super) fn failed(why: impl Into<String>) -> TaskResult {
    TaskResult {
        state: TaskState::Failed,
        exit_code: None,
        error: Some(why.into()),
        changed_files: Vec::new(),
        diff: None,
    }
}

pub(super) fn cancelled(exit_code: Option<i32>) -> TaskResult {
    TaskResult {
        state: TaskState::Cancelled,
        exit_code,
        error: None,
        changed_files: Vec::new(),
        diff: None,
    }
}

/// The outcome, from the result of the process and the agent's report.
pub(super) fn outcome(
    end: &TaskEnd,
    was_cancelled: bool,
    reported_failed: bool,
    result: Option<&str>,
    seconds: u32,
) -> TaskResult {
    let code = Some(end.exit_code);
    if was_cancelled {
        return cancelled(code);
    }
    let plain = |text: &str| -> String {
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        last.chars()
            .filter(|c| !c.is_control() || *c == '\n')
            .take(2000)
            .collect()
    };
    let error = if end.timed_out {
        format!("it did not finish within {seconds} seconds")
    } else if reported_failed {
        plain(result.unwrap_or("the agent reported a failure"))
    } else if end.exit_code != 0 {
        let stderr = plain(&end.stderr);
        let stderr = if stderr.is_empty() {
            result.map(plain).unwrap_or_default()
        } else {
            stderr
        };
        format!("the agent ended with exit code {}: {stderr}", end.exit_code)
    } else {
        return TaskResult {
            state: TaskState::Succeeded,
            error: None,
            ..cancelled(code)
        };
    };
    TaskResult {
        exit_code: code,
        ..failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outcome_depends_on_process_and_report() {
        let end = |exit_code, timed_out| TaskEnd {
            exit_code,
            timed_out,
            stderr: "warning\n\nno key\n".into(),
        };
        assert_eq!(
            outcome(&end(0, false), false, false, Some("ok"), 9).state,
            TaskState::Succeeded
        );
        assert_eq!(
            outcome(&end(143, false), true, false, None, 9).state,
            TaskState::Cancelled
        );
        let late = outcome(&end(124, true), false, false, None, 9);
        assert_eq!((late.state, late.exit_code), (TaskState::Failed, Some(124)));
        assert!(late.error.unwrap().contains("9 seconds"));
        let failed = outcome(&end(0, false), false, true, Some("out of money"), 9);
        assert_eq!(failed.error.as_deref(), Some("out of money"));
        let broken = outcome(&end(1, false), false, false, None, 9);
        assert!(broken.error.unwrap().contains("no key"));
    }
}
