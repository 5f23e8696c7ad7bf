//! Percent-encoding of bytes: file names of Linux, which need not be UTF-8.

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// Bytes in a form that any part of a URL may have.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    percent_encode(bytes, NON_ALPHANUMERIC).to_string()
}

/// The bytes of a parameter of a URL's query; of a repeated one, the last. The usual parsers replace what is not UTF-8.
#[must_use]
pub fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .rfind(|(key, _)| decode(key) == name.as_bytes())
        .map(|(_, value)| decode(value))
}

/// The bytes of an encoded text; a plus is a space.
#[must_use]
pub fn decode(text: &str) -> Vec<u8> {
    percent_decode_str(&text.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_read_byte_by_byte() {
        let query = "list=true&path=a+b%2FSal%E9.txt&p%61th2=x";
        assert_eq!(parameter(query, "path").unwrap(), b"a b/Sal\xe9.txt");
        assert_eq!(parameter(query, "path2").unwrap(), b"x");
        assert_eq!(parameter(query, "user"), None);
        assert_eq!(parameter("path", "path").unwrap(), b"");
    }

    #[test]
    fn what_was_encoded_is_decoded_again() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(
            parameter(&format!("path={}", encode(&bytes)), "path").unwrap(),
            bytes
        );
    }
}
