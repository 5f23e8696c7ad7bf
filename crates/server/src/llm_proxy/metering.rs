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
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// Most bytes of a response that is not a stream.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
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
    buffer: Vec<u8>,
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
            buffer: Vec::new(),
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
            Kind::Whole => self.buffer_piece(piece, MAX_BODY_BYTES),
            Kind::Events => {
                while let Some(end) = memchr::memchr(b'\n', piece) {
                    let (line, rest) = piece.split_at(end);
                    piece = &rest[1..];
                    if self.buffer.is_empty() && !self.too_long {
                        self.line(line);
                    } else {
                        self.buffer_piece(line, MAX_LINE_BYTES);
                        let whole = std::mem::take(&mut self.buffer);
                        if !std::mem::take(&mut self.too_long) {
                            self.line(&whole);
                        }
                    }
                }
                self.buffer_piece(piece, MAX_LINE_BYTES);
            }
        }
    }

    fn buffer_piece(&mut self, piece: &[u8], max: usize) {
        if self.buffer.len() + piece.len() > max {
            self.too_long = true;
            self.buffer = Vec::new();
        }
        if !self.too_long {
            self.buffer.extend_from_slice(piece);
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
                read_count(usage, "/input_tokens", &mut self.counted.input);
                read_count(usage, "/output_tokens", &mut self.counted.output);
                read_count(usage, "/cache_read_input_tokens", &mut self.counted.cache_read);
                read_count(
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
                read_count(usage, "/prompt_tokens", &mut input);
                read_count(usage, "/input_tokens", &mut input);
                read_count(usage, "/prompt_tokens_details/cached_tokens", &mut cached);
                read_count(usage, "/input_tokens_details/cached_tokens", &mut cached);
                read_count(usage, "/completion_tokens", &mut self.counted.output);
                read_count(usage, "/output_tokens", &mut self.counted.output);
                self.counted.cache_read = cached.min(input);
                self.counted.input = input - self.counted.cache_read;
                self.ended = true;
            }
            Provider::Gemini => {
                self.model(event.get("modelVersion"));
                let Some(usage) = event.get("usageMetadata") else {
                    return;
                };
                let (mut input, mut cached, mut candidates, mut thoughts) = (0, 0, 0, 0);
                read_count(usage, "/promptTokenCount", &mut input);
                read_count(usage, "/cachedContentTokenCount", &mut cached);
                read_count(usage, "/candidatesTokenCount", &mut candidates);
                read_count(usage, "/thoughtsTokenCount", &mut thoughts);
                self.counted.cache_read = cached.min(input);
                self.counted.input = input - self.counted.cache_read;
                self.counted.output = self.counted.output.max(candidates + thoughts);
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
        let buffer = std::mem::take(&mut self.buffer);
        match self.kind {
            Kind::Events => self.line(&buffer),
            Kind::Whole => match serde_json::from_slice::<Value>(&buffer) {
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
            let bytes_per_token = if self.kind == Kind::Events {
                STREAMED_BYTES
            } else {
                PLAIN_BYTES
            };
            self.counted.output = self.counted.output.max(self.bytes / bytes_per_token);
        }
        self.counted
    }
}

fn read_count(usage: &Value, pointer: &str, into: &mut u64) {
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

    fn total_usage(provider: Provider, kind: &'static str, text: &str) -> TokenUsage {
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
        fn usage_does_not_depend_on_chunk_boundaries(cuts in proptest::collection::vec(0..MESSAGES.len(), 0..6)) {
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
        fn invalid_output_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
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
    fn interrupted_responses_are_metered() {
        let end = MESSAGES.find("event: message_delta").unwrap();
        let broken = total_usage(Provider::Anthropic, "text/event-stream", &MESSAGES[..end]);
        assert_eq!(broken.input, 10);
        assert!(broken.output >= 8, "{broken:?}");
    }

    #[test]
    fn usage_of_each_provider_is_parsed() {
        let chat = r#"data: {"model":"gpt-x","choices":[],"usage":{"prompt_tokens":20,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":8}}}"#;
        assert_eq!(
            total_usage(
                Provider::Openai,
                "text/event-stream",
                &format!("{chat}\n\ndata: [DONE]\n\n")
            ),
            of("gpt-x", 12, 5, 8, 0)
        );
        let responses = r#"data: {"type":"response.completed","response":{"model":"gpt-y","usage":{"input_tokens":20,"output_tokens":5,"input_tokens_details":{"cached_tokens":0}}}}"#;
        assert_eq!(
            total_usage(Provider::Openai, "text/event-stream", responses),
            of("gpt-y", 20, 5, 0, 0)
        );
        let gemini = r#"[{"candidates":[]},{"modelVersion":"gemini-x","usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":4,"thoughtsTokenCount":2}}]"#;
        assert_eq!(
            total_usage(Provider::Gemini, "application/json", gemini),
            of("gemini-x", 9, 6, 0, 0)
        );
        let plain = r#"{"model":"claude-z","usage":{"input_tokens":1,"output_tokens":2}}"#;
        assert_eq!(
            total_usage(Provider::Anthropic, "application/json", plain),
            of("claude-z", 1, 2, 0, 0)
        );
    }

    #[test]
    fn lines_without_an_end_are_not_buffered() {
        let mut meter = meter(Provider::Anthropic, "text/event-stream");
        for _ in 0..40 {
            meter.feed(&[b'x'; 64 * 1024]);
            assert!(meter.buffer.len() <= MAX_LINE_BYTES);
        }
        meter.feed(b"\n");
        meter.feed(MESSAGES.as_bytes());
        assert_eq!(meter.finish().input, 10);
    }
}
