//! Parsers of agents' output, of LLM providers' responses, and of git's credential requests.

use fsa_fuzz::target;
use fsa_model::agent::Agent;
use fsa_server::{git_credentials::RepositoryLocation, llm_proxy::metering::Meter, tasks::agents};

/// Output of agents: each line becomes steps of a bounded size.
#[test]
fn agent_lines() {
    let seeds = [
        r#"{"type":"system","subtype":"init","session_id":"s","model":"m"}"#,
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hi"},{"type":"tool_use","id":"1","name":"Bash","input":{"command":"ls"}}]}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"1","content":"ok","is_error":false}]}}"#,
        r#"{"type":"result","subtype":"success","result":"done","total_cost_usd":0.1,"is_error":false}"#,
        r#"{"type":"thread.started","thread_id":"t"}"#,
        r#"{"type":"item.completed","item":{"type":"command_execution","command":"ls","exit_code":0}}"#,
        "plain words",
    ];
    target("agent-lines")
        .seeds(&seeds)
        .dictionary(&[
            b"null",
            b"[]",
            b"{}",
            b"\"type\":",
            b"\"message\":",
            b"\"content\":",
            b"-1",
            b"1e308",
            b"[[[[",
        ])
        .check(|bytes| {
            let line = String::from_utf8_lossy(bytes);
            let mut outcome = String::new();
            for &agent in Agent::ALL {
                let mut parsed = agents::Output::default();
                agents::adapter(agent).parse_line(&line, &mut parsed);
                assert!(parsed.cost.is_none_or(|cost| cost.0 >= 0), "{:?}", parsed.cost);
                for (kind, data) in &parsed.steps {
                    outcome.push_str(&format!("{kind:?} "));
                    // JSON escapes some bytes to six.
                    assert!(data.to_string().len() <= 6 * line.len() + 1024);
                }
                outcome.push_str(&format!("{} {}|", parsed.result.is_some(), parsed.failed));
            }
            outcome
        });
}

/// Usage metering of a provider's response: the result does not depend on how the bytes are split.
#[test]
fn model_answers() {
    let seeds = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\",\"usage\":{\"input_tokens\":10,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":5}}\n\n",
        "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":2}},\"model\":\"m\"}\n\ndata: [DONE]\n\n",
        "data: {\"usageMetadata\":{\"promptTokenCount\":3,\"candidatesTokenCount\":4,\"thoughtsTokenCount\":1}}\n\n",
    ];
    target("model-answers")
        .seeds(&seeds)
        .dictionary(&[
            b"data:",
            b"\n",
            b"\"usage\":",
            b"\"usageMetadata\":",
            b"18446744073709551615",
            b"-1",
            b"null",
            b"{",
        ])
        .check(|bytes| {
            use fsa_model::llm_provider::Provider;
            let mut headers = http::HeaderMap::new();
            headers.insert(
                "content-type",
                http::HeaderValue::from_static("text/event-stream"),
            );
            let mut outcome = String::new();
            for provider in Provider::ALL {
                let (mut whole, mut pieces) =
                    (Meter::new(provider, &headers), Meter::new(provider, &headers));
                whole.feed(bytes);
                for piece in bytes.chunks(5) {
                    pieces.feed(piece);
                }
                let counted = whole.finish();
                assert_eq!(counted, pieces.finish());
                outcome.push_str(&format!(
                    "{} {} {}|",
                    counted.input > 0,
                    counted.cache_read > 0,
                    counted.model.is_some()
                ));
            }
            outcome
        });
}

/// Git's credential request: the result has the attributes of the input's lines, and no others.
#[test]
fn git_credential_requests() {
    target("git-questions")
        .seeds(&[
            "protocol=https\nhost=git.example\npath=team/shop.git\n\n",
            "protocol=https\nhost=a\n",
            "url=https://a/b\n",
        ])
        .dictionary(&[
            b"protocol=",
            b"host=",
            b"path=",
            b"https",
            b"ssh",
            b"\n",
            b"\r",
            b"\0",
            b"..",
            b"@",
            b"/",
        ])
        .check(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            match RepositoryLocation::parse(&text) {
                Some(location) => {
                    for part in [&location.protocol, &location.host, &location.path] {
                        assert!(!part.is_empty() && !part.contains('\n'), "{location:?}");
                    }
                    assert!(!location.path.starts_with('/'), "{location:?}");
                    "a location".into()
                }
                None => "none".into(),
            }
        });
}
