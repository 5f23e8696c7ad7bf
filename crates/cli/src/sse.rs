//! Reading an event stream (HTML standard, 9.2 Server-sent events).

use reqwest::Response;

use crate::failure::Failure;

/// One event. Comments and `retry` are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: String,
}

/// A response that is read as events.
pub struct Events {
    response: Response,
    parser: Parser,
}

/// Longest line of a stream that is taken.
const LINE_LIMIT: usize = 4 * 1024 * 1024;

#[derive(Default)]
struct Parser {
    buffer: Vec<u8>,
    message: Message,
}

impl Events {
    pub fn new(response: Response) -> Self {
        Self {
            response,
            parser: Parser::default(),
        }
    }

    /// The next event, or `None` when the server ends the stream.
    pub async fn next(&mut self) -> Result<Option<Message>, Failure> {
        loop {
            if let Some(message) = self.parser.next()? {
                return Ok(Some(message));
            }
            match self.response.chunk().await? {
                Some(chunk) => self.parser.buffer.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

impl Parser {
    fn next(&mut self) -> Result<Option<Message>, Failure> {
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if message != Message::default() {
                    return Ok(Some(message));
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.message.id = Some(value.to_owned()),
                "event" => self.message.event = Some(value.to_owned()),
                "data" => {
                    if !self.message.data.is_empty() {
                        self.message.data.push('\n');
                    }
                    self.message.data.push_str(value);
                }
                _ => {}
            }
        }
        if self.buffer.len() > LINE_LIMIT {
            return Err(Failure::failed("the server sent a line that is too long"));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_across_chunks_and_comments_passed_over() {
        let mut parser = Parser::default();
        parser
            .buffer
            .extend_from_slice(b": hello\n\nid: 7\nevent: x\ndata: a\nda");
        assert!(matches!(parser.next(), Ok(None)));
        parser.buffer.extend_from_slice(b"ta: b\r\n\r\ndata:c\n\n");
        let first = parser.next().ok().flatten();
        assert_eq!(
            first,
            Some(Message {
                id: Some("7".into()),
                event: Some("x".into()),
                data: "a\nb".into()
            })
        );
        let second = parser.next().ok().flatten();
        assert_eq!(
            second,
            Some(Message {
                id: None,
                event: None,
                data: "c".into()
            })
        );
        assert!(matches!(parser.next(), Ok(None)));
    }
}
