//! Agent adapters: how each agent's program is started, and how its output is parsed.
//!
//! Pure: a command from a task, steps from a line. The prompt goes through standard input, where no list of processes
//! shows it. To add an agent: its name in `fsa_model::agent`, a file here, and its line in [`adapter`].

mod claude;
mod codex;
mod gemini;
mod output;

use fsa_model::{
    agent::Agent,
    task::{StepKind, Task},
};
use serde_json::{Value, json};

pub use self::output::Output;
use self::output::short;

/// One agent's program: its command line and its output format.
pub trait AgentAdapter: Sync {
    /// The program and its arguments. `session` is the conversation to continue.
    fn command(&self, task: &Task, session: Option<&str>) -> Vec<String>;

    /// Parses one JSON line of the agent's output.
    fn parse_event(&self, event: &Value, output: &mut Output);

    /// Whether the process ended because the agent's program is not installed.
    fn is_missing(&self, _exit_code: i32) -> bool {
        false
    }

    /// Parses one line of the agent's output. A line that is not JSON becomes a notice.
    fn parse_line(&self, line: &str, output: &mut Output) {
        if line.trim().is_empty() {
            return;
        }
        match serde_json::from_str::<Value>(line) {
            Ok(event) => self.parse_event(&event, output),
            Err(_) => output.step(StepKind::Notice, json!({"text": short(line)})),
        }
    }
}

/// The adapter of each agent.
#[must_use]
pub fn adapter(agent: Agent) -> &'static dyn AgentAdapter {
    match agent {
        Agent::Claude => &claude::ClaudeCode,
        Agent::Codex => &codex::CodexCli,
        Agent::Gemini => &gemini::GeminiCli,
    }
}

/// A command line: `program`, the task's model, and `rest`.
fn command_line(program: &[&str], task: &Task, rest: &[&str]) -> Vec<String> {
    let model = task.model.as_deref().map(|model| ["--model", model]);
    program
        .iter()
        .chain(model.iter().flatten())
        .chain(rest)
        .map(|&word| word.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use fsa_model::{ProjectId, money::Micros, task::TaskState};
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::{output::MAX_TEXT, *};

    fn task(agent: Agent) -> Task {
        Task {
            id: Uuid::nil(),
            project_id: ProjectId::generate(),
            branch: fsa_model::BranchName::main(),
            agent,
            prompt: "a secret plan".into(),
            model: Some("m".into()),
            budget: None,
            timeout_seconds: 60,
            continues: None,
            state: TaskState::Queued,
            error: None,
            exit_code: None,
            result: None,
            cost: Micros(0),
            changed_files: Vec::new(),
            steps: 0,
            created_at: Utc::now(),
            started_at: None,
            ended_at: None,
        }
    }

    pub(super) fn kinds(agent: Agent, lines: &[&str]) -> (Vec<StepKind>, Output) {
        let mut output = Output::default();
        for line in lines {
            adapter(agent).parse_line(line, &mut output);
        }
        (output.steps.iter().map(|(kind, _)| *kind).collect(), output)
    }

    #[test]
    fn the_prompt_is_never_an_argument() {
        for &agent in Agent::ALL {
            for session in [None, Some("s-1")] {
                let command = adapter(agent).command(&task(agent), session);
                let program = if agent == Agent::Claude { 0 } else { 3 };
                assert_eq!(command[program], agent.name());
                assert!(!command.iter().any(|word| word.contains("secret")), "{command:?}");
                assert_eq!(command.iter().any(|word| word == "s-1"), session.is_some());
                assert!(command.windows(2).any(|pair| pair == ["--model", "m"]));
            }
        }
    }

    #[test]
    fn reported_failures_fail_the_task() {
        for (agent, line) in [
            (
                Agent::Claude,
                r#"{"type":"result","subtype":"error_max_turns","is_error":true}"#,
            ),
            (Agent::Codex, r#"{"type":"turn.failed","error":{"message":"no"}}"#),
            (
                Agent::Gemini,
                r#"{"type":"result","status":"error","error":{"message":"no"}}"#,
            ),
        ] {
            assert!(kinds(agent, &[line]).1.failed, "{agent:?}");
        }
    }

    #[test]
    fn session_ids_that_look_like_options_are_ignored() {
        for session in ["--help", "", "a b"] {
            let line = json!({"type": "system", "subtype": "init", "session_id": session}).to_string();
            assert_eq!(kinds(Agent::Claude, &[&line]).1.session, None);
        }
    }

    proptest! {
        // Each input is tried at every position for every agent, and some inputs are megabytes.
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agent_output_is_bounded(text in ".{0,200}", repeat in 1usize..400) {
            let long = text.repeat(repeat);
            let wrapped = json!({"type": "assistant", "message": {"content": [
                {"type": "text", "text": long}, {"type": "tool_use", "id": long, "name": long, "input": {"x": long}}]}});
            for &agent in Agent::ALL {
                for printed in [&long, &wrapped.to_string()] {
                    let (_, output) = kinds(agent, &[printed]);
                    for (_, data) in &output.steps {
                        prop_assert!(data.to_string().len() < 20 * MAX_TEXT);
                        prop_assert!(!data.to_string().contains("\\u0000"));
                    }
                }
            }
        }
    }
}
