//! Tokens and cursors that a client returns to the server.

use fsa_fuzz::target;
use fsa_server::{
    api::cursor::AfterProject,
    encryption::{AssociatedData, KeyRing},
    extract,
};
use serde::Deserialize;

use crate::error_text;

/// Encrypted tokens (hand-offs, preview tokens) that were modified: only the original bytes decrypt, and only with
/// their associated data.
#[test]
fn encrypted_tokens() {
    let key_ring = KeyRing::new(&[[7; 32]]);
    let location = |row| AssociatedData {
        table: "gateway",
        column: "pass",
        row,
    };
    let good = key_ring.encrypt(location("a.localhost"), &"user".to_owned().into());
    let seeds = vec![good.clone(), good[..20].to_vec(), vec![1; 60], Vec::new()];
    target("encrypted-tokens").seeds(&seeds).check(|bytes| {
        assert!(key_ring.decrypt(location("b.localhost"), bytes).is_err());
        let opened = key_ring.decrypt(location("a.localhost"), bytes);
        assert_eq!(opened.is_ok(), bytes == good);
        opened.map_or_else(|error| error_text(&error), |_| "opened".into())
    });
}

/// List cursors: a parsed cursor is formatted as the same cursor.
#[test]
fn list_cursors() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct CursorQuery<T> {
        cursor: T,
    }
    fn round_trip<T>(query: &str) -> Option<T>
    where
        T: serde::de::DeserializeOwned + ToString + PartialEq + std::fmt::Debug,
    {
        let location = extract::query::<CursorQuery<T>>(query).ok()?.cursor;
        let mut written = url::form_urlencoded::Serializer::new(String::new());
        written.append_pair("cursor", &location.to_string());
        let read = extract::query::<CursorQuery<T>>(&written.finish()).expect("what we wrote ourselves");
        assert_eq!(read.cursor, location);
        Some(location)
    }
    target("list-cursors")
        .seeds(&[
            "cursor=shop%2F018f3c3e-7a10-7cc0-8000-000000000001&limit=2",
            "cursor=018f3c3e-7a10-7cc0-8000-000000000001",
            "cursor=42",
            "cursor=",
        ])
        .dictionary(&[
            b"cursor=",
            b"%00",
            b"%2F",
            b"%2f",
            b"&",
            b"+",
            b"-",
            b"{",
            b"urn:uuid:",
        ])
        .check(|bytes| {
            let query = String::from_utf8_lossy(bytes);
            let project = round_trip::<AfterProject>(&query);
            let login = round_trip::<String>(&query);
            for text in [project.as_ref().map(|location| &location.name), login.as_ref()] {
                assert!(text.is_none_or(|text| !text.contains('\0')));
            }
            let (id, number) = (round_trip::<uuid::Uuid>(&query), round_trip::<i64>(&query));
            format!(
                "{:?} {} {} {}",
                project.map(|location| (location.name.is_empty(), location.id.is_some())),
                login.is_some(),
                id.is_some(),
                number.is_some()
            )
        });
}
