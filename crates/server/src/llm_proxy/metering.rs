//! Usage metering: counts the tokens of a model's response from the response itself, as it passes.
//!
//! Providers report usage in their last events (`usage`, `usageMetadata`); Anthropic's first event
//! already has the input. A response that broke off before its last event is billed all the
//! same, so its output is estimated from its length.

use std::sync::LazyLock;

use fsa_model::llm_provider::Provider;
use http::{HeaderMap, header};
use memchr::memmem::Finder;
use serde_json::Value;

use crate::pricing::TokenUsage;

/// Most bytes of an incomplete event stream line that are buffered.
const LINE: usize = 1024 * 1024;
/// Most bytes of a response that is not a stream.
const WHOLE: usize = 8 * 1024 * 1024;
/// Bytes of an event stream for each output token: an event is some 90 bytes around two or
/// three tokens. Used for responses that broke off.
const STREAMED_BYTES: u64 = 32;
/// Bytes of plain text for each token.
const PLAIN_BYTES: u64 = 4;

/// Built once: preparing a search takes longer than searching an event.
static USAGE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"usage"));

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Events,
    Whole,
    /// The response cannot be read (it is compressed), or is an error, which costs nothing.
    Opaque,
}

/// Meters one response.
#[derive(Debug)]
pub struct Meter {
    provider: Provider,
    kind: Kind,
    /// The beginning of a line, or the whole response.
    held: Vec<u8>,
    too_long: bool,
    bytes: u64,
    counted: TokenUsage,
    /// The provider has reported the final output.
    ended: bool,
}

impl Meter {
    /// Creates a meter for a successful response with these headers.
    #[must_use]
    pub fn new(provider: Provider, headers: &HeaderMap) -> Self {
        let text = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let kind = if !matches!(text(header::CONTENT_ENCODING), "" | "identity") {
            Kind::Opaque
        } else if text(header::CONTENT_TYPE).starts_with("text/event-stream") {
            Kind::Events
        } else {
            Kind::Whole
        };
        Self {
            provider,
            kind,
            held: Vec::new(),
            too_long: false,
            bytes: 0,
            counted: TokenUsage::default(),
            ended: false,
        }
    }

    /// Consumes a piece of the response.
    pub fn feed(&mut self, mut piece: &[u8]) {
        self.bytes += piece.len() as u64;
        match self.kind {
            Kind::Opaque => {}
            Kind::Whole => self.hold(piece, WHOLE),
            Kind::Events => {
                while let Some(end) = memchr::memchr(b'\n', piece) {
                    let (line, rest) = piece.split_at(end);
                    piece = &rest[1..];
                    if self.held.is_empty() && !self.too_long {
                        self.line(line);
                    } else {
                        self.hold(line, LINE);
                        let whole = std::mem::take(&mut self.held);
                        if !std::mem::take(&mut self.too_long) {
                            self.line(&whole);
                        }
                    }
                }
                self.hold(piece, LINE);
            }
        }
    }

    fn hold(&mut self, piece: &[u8], most: usize) {
        if self.held.len() + piece.len() > most {
            self.too_long = true;
            self.held = Vec::new();
        }
        if !self.too_long {
            self.held.extend_from_slice(piece);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(data) = line.strip_prefix(b"data:") else {
            return;
        };
        // Most events are a few words of text, and not worth parsing.
        if USAGE.find(data).is_none() {
            return;
        }
        if let Ok(event) = serde_json::from_slice::<Value>(data) {
            self.event(&event);
        }
    }

    fn event(&mut self, event: &Value) {
        match self.provider {
            Provider::Anthropic => {
                let message = event.get("message").unwrap_or(event);
                self.model(message.get("model"));
                let usage = event.pointer("/message/usage").or_else(|| event.get("usage"));
                let Some(usage) = usage else { return };
                take(usage, "/input_tokens", &mut self.counted.input);
                take(usage, "/output_tokens", &mut self.counted.output);
                take(usage, "/cache_read_input_tokens", &mut self.counted.cache_read);
                take(
                    usage,
                    "/cache_creation_input_tokens",
                    &mut self.counted.cache_write,
                );
                // `message_start` reports the output so far.
                self.ended |= event.get("type").and_then(Value::as_str) != Some("message_start");
            }
            Provider::Openai => {
                // The last event of the Responses API nests what the other endpoints have at the top level.
                let whole = event.get("response").unwrap_or(event);
                self.model(whole.get("model"));
                let Some(usage) = whole.get("usage").filter(|usage| usage.is_object()) else {
                    return;
                };
                let (mut input, mut cached) = (0, 0);
                take(usage, "/prompt_tokens", &mut input);
                take(usage, "/input_tokens", &mut input);
                take(usage, "/prompt_tokens_details/cached_tokens", &mut cached);
                take(usage, "/input_tokens_details/cached_tokens", &mut cached);
                take(usage, "/completion_tokens", &mut self.counted.output);
                take(usage, "/output_tokens", &mut self.counted.output);
                self.counted.cache_read = cached.min(input);
                self.counted.input = input - self.counted.cache_read;
                self.ended = true;
            }
            Provider::Gemini => {
                self.model(event.get("modelVersion"));
                let Some(usage) = event.get("usageMetadata") else {
                    return;
                };
                let (mut input, mut cached, mut said, mut thought) = (0, 0, 0, 0);
                take(usage, "/promptTokenCount", &mut input);
                take(usage, "/cachedContentTokenCount", &mut cached);
                take(usage, "/candidatesTokenCount", &mut said);
                take(usage, "/thoughtsTokenCount", &mut thought);
                self.counted.cache_read = cached.min(input);
                self.counted.input = input - self.counted.cache_read;
                self.counted.output = self.counted.output.max(said + thought);
                self.ended = true;
            }
        }
    }

    fn model(&mut self, model: Option<&Value>) {
        if let Some(model) = model.and_then(Value::as_str) {
            let plain = model.chars().filter(|c| c.is_ascii_graphic()).take(100);
            self.counted.model = Some(plain.collect());
        }
    }

    /// The usage, at the end of the response or where it broke off.
    #[must_use]
    pub fn finish(mut self) -> TokenUsage {
        let held = std::mem::take(&mut self.held);
        match self.kind {
            Kind::Events => self.line(&held),
            Kind::Whole => match serde_json::from_slice::<Value>(&held) {
                // Gemini's stream without `alt=sse` is a JSON array.
                Ok(Value::Array(all)) => all.iter().for_each(|event| self.event(event)),
                Ok(whole) => {
                    self.event(&whole);
                    // Lists of models and token counts are free.
                    self.ended = true;
                }
                Err(_) => {}
            },
            Kind::Opaque => {}
        }
        if !self.ended {
            let each = if self.kind == Kind::Events {
                STREAMED_BYTES
            } else {
                PLAIN_BYTES
            };
            self.counted.output = self.counted.output.max(self.bytes / each);
        }
        self.counted
    }
}

fn take(usage: &Value, pointer: &str, into: &mut u64) {
    if let Some(count) = usage.pointer(pointer).and_then(Value::as_u64) {
        // An absurd count must not become a cost that overflows.
        *into = count.min(1_000_000_000);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const MESSAGES: &str = concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":10,"cache_read_input_tokens":7,"cache_creation_input_tokens":3,"output_tokens":1}}}"#,
        "\n\nevent: content_block_delta\n",
        r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}"#,
        "\n\nevent: message_delta\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":42}}"#,
        "\n\n"
    );

    fn meter(provider: Provider, kind: &'static str) -> Meter {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        Meter::new(provider, &headers)
    }

    fn whole(provider: Provider, kind: &'static str, text: &str) -> TokenUsage {
        let mut meter = meter(provider, kind);
        meter.feed(text.as_bytes());
        meter.finish()
    }

    fn of(model: &str, input: u64, output: u64, cache_read: u64, cache_write: u64) -> TokenUsage {
        TokenUsage {
            model: Some(model.into()),
            input,
            output,
            cache_read,
            cache_write,
        }
    }

    proptest! {
        #[test]
        fn the_count_does_not_depend_on_the_pieces(cuts in proptest::collection::vec(0..MESSAGES.len(), 0..6)) {
            let mut cuts = cuts;
            cuts.sort_unstable();
            let mut meter = meter(Provider::Anthropic, "text/event-stream; charset=utf-8");
            let mut from = 0;
            for cut in cuts.into_iter().chain([MESSAGES.len()]) {
                meter.feed(&MESSAGES.as_bytes()[from..cut]);
                from = cut;
            }
            prop_assert_eq!(meter.finish(), of("claude-x", 10, 42, 7, 3));
        }

        #[test]
        fn nonsense_is_no_reason_to_stop(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            for provider in Provider::ALL {
                for kind in ["text/event-stream", "application/json"] {
                    let mut meter = meter(provider, kind);
                    meter.feed(&bytes);
                    let _ = meter.finish();
                }
            }
        }
    }

    #[test]
    fn an_answer_that_broke_off_is_not_free() {
        let end = MESSAGES.find("event: message_delta").unwrap();
        let broken = whole(Provider::Anthropic, "text/event-stream", &MESSAGES[..end]);
        assert_eq!(broken.input, 10);
        assert!(broken.output >= 8, "{broken:?}");
    }

    #[test]
    fn each_provider_says_it_in_its_own_words() {
        let chat = r#"data: {"model":"gpt-x","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8}}}"#;
        assert_eq!(
            whole(
                Provider::Openai,
                "text/event-stream",
                &format!("{chat}\n\ndata: [DONE]\n\n")
            ),
            of("gpt-x", 12, 5, 8, 0)
        );
        let responses = r#"data: {"type":"response.completed","response":{"model":"gpt-y","usage":{"input_tokens":20,"output_tokens":5,"input_tokens_details":{"cached_tokens":0}}}}"#;
        assert_eq!(
            whole(Provider::Openai, "text/event-stream", responses),
            of("gpt-y", 20, 5, 0, 0)
        );
        let gemini = r#"[{"candidates":[]},{"modelVersion":"gemini-x","usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4,"thoughtsTokenCount":2}}]"#;
        assert_eq!(
            whole(Provider::Gemini, "application/json", gemini),
            of("gemini-x", 9, 6, 0, 0)
        );
        let plain = r#"{"model":"claude-z","usage":{"input_tokens":1,"output_tokens":2}}"#;
        assert_eq!(
            whole(Provider::Anthropic, "application/json", plain),
            of("claude-z", 1, 2, 0, 0)
        );
    }

    #[test]
    fn a_line_without_end_is_not_kept() {
        let mut meter = meter(Provider::Anthropic, "text/event-stream");
        for _ in 0..40 {
            meter.feed(&[b'x'; 64 * 1024]);
            assert!(meter.held.len() <= LINE);
        }
        meter.feed(b"\n");
        meter.feed(MESSAGES.as_bytes());
        assert_eq!(meter.finish().input, 10);
    }
}
