//! PostgreSQL start-up packets: parsing a client's first packets and authorizing them. Pure.
//!
//! Sources: PostgreSQL's manual, 55.2.1 (start-up), 55.2.8–10 (cancel, TLS, GSS), 55.7 (formats). A start-up
//! packet is parsed into its parameters and serialized again from the checked ones, so that the server and
//! the proxy cannot read it differently.

use crate::runner::database::SUPERUSER;

/// Maximum length of a packet in bytes, including the four of the length (`MAX_STARTUP_PACKET_LENGTH`).
pub const PACKET_MAX: usize = 10_000;
/// Minimum length of a packet: its length and its code.
pub const PACKET_MIN: usize = 8;

const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
/// A cancel key is a process id and, since protocol 3.2, up to 256 bytes of secret.
const KEY_MAX: usize = 4 + 256;

/// SQLSTATE invalid_authorization_specification.
pub const NOT_AUTHORIZED: &str = "28000";
/// SQLSTATE protocol_violation.
pub const PROTOCOL: &str = "08P01";
/// SQLSTATE too_many_connections.
pub const TOO_MANY: &str = "53300";
/// SQLSTATE insufficient_resources.
pub const RESOURCES: &str = "53000";
/// SQLSTATE cannot_connect_now.
pub const NOT_NOW: &str = "57P03";

/// An initial packet, before the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialPacket {
    /// A request for encryption; a single `N` declines, and another initial packet follows.
    Encryption,
    /// A request to cancel a query: the process id and secret of its connection.
    Cancel(Vec<u8>),
    Startup(Startup),
}

/// A start-up packet, its parameters in the client's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Protocol version; 196608 is 3.0.
    pub protocol: u32,
    /// Names and values, without their NULs. Names are unique.
    pub parameters: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Why a client is refused: the message and SQLSTATE that it receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub message: String,
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Returns how many bytes follow, from the first four bytes of a packet.
pub fn following(length: [u8; 4]) -> Option<usize> {
    let length = u32::from_be_bytes(length) as usize;
    (PACKET_MIN..=PACKET_MAX).contains(&length).then(|| length - 4)
}

/// Parses the packet after its length.
///
/// # Errors
/// The packet is of another protocol, or repeats a parameter.
pub fn parse(packet: &[u8]) -> Result<InitialPacket, Refusal> {
    let broken = || Refusal::new(PROTOCOL, "the start-up packet is malformed");
    let (code, rest) = packet.split_first_chunk::<4>().ok_or_else(broken)?;
    match u32::from_be_bytes(*code) {
        TLS | GSS if rest.is_empty() => Ok(InitialPacket::Encryption),
        CANCEL if (8..=KEY_MAX).contains(&rest.len()) => Ok(InitialPacket::Cancel(rest.to_vec())),
        TLS | GSS | CANCEL => Err(broken()),
        protocol if protocol >> 16 == 3 => {
            let parameters = parameters(rest).ok_or_else(broken)?;
            Ok(InitialPacket::Startup(Startup { protocol, parameters }))
        }
        _ => Err(Refusal::new(
            "0A000",
            "only version 3 of PostgreSQL's protocol is spoken here",
        )),
    }
}

/// Parses pairs of NUL-terminated strings, then one more NUL and nothing after it.
fn parameters(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut parameters: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    loop {
        let name = string(&mut bytes)?;
        if name.is_empty() {
            return bytes.is_empty().then_some(parameters);
        }
        let value = string(&mut bytes)?;
        if parameters.iter().any(|(other, _)| other == name) {
            return None;
        }
        parameters.push((name.to_vec(), value.to_vec()));
    }
}

fn string<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    let (string, rest) = bytes.split_at(end);
    *bytes = &rest[1..];
    Some(string)
}

impl Startup {
    fn get(&self, name: &str) -> Option<&[u8]> {
        let parameters = self.parameters.iter().find(|(other, _)| other == name.as_bytes());
        parameters.map(|(_, value)| value.as_slice())
    }

    /// Returns the packet for the server of the sandbox's volume. That server is the sandbox's own, so the
    /// client may name any role, which needs its password, and any database.
    ///
    /// # Errors
    /// The refusal for the client: of the bootstrap superuser, which has no password, and of replication.
    pub fn authorize(&self, role: &str) -> Result<Vec<u8>, Refusal> {
        let user = self.get("user").filter(|user| !user.is_empty());
        let Some(user) = user else {
            return Err(Refusal::new(NOT_AUTHORIZED, "no user name was given"));
        };
        if user == SUPERUSER.as_bytes() {
            return Err(Refusal::new(
                NOT_AUTHORIZED,
                format!(
                    "the user \"{SUPERUSER}\" is reserved; sign in as \"{role}\", which is a superuser too (see DATABASE_URL)"
                ),
            ));
        }
        if self.get("replication").is_some() {
            return Err(Refusal::new(
                NOT_AUTHORIZED,
                "replication is not possible from a sandbox",
            ));
        }
        // PostgreSQL treats an empty database as absent, and uses the user's name then.
        let database = self
            .get("database")
            .filter(|database| !database.is_empty())
            .unwrap_or(user);
        Ok(self.packet(user, database))
    }

    fn packet(&self, user: &[u8], database: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; 4];
        packet.extend(self.protocol.to_be_bytes());
        let first = [(&b"user"[..], user), (&b"database"[..], database)];
        let others = self
            .parameters
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_slice()))
            .filter(|(name, _)| !matches!(*name, b"user" | b"database"));
        for (name, value) in first.into_iter().chain(others) {
            packet.extend(name);
            packet.push(0);
            packet.extend(value);
            packet.push(0);
        }
        packet.push(0);
        with_length(packet)
    }
}

/// Returns the packet that cancels the query of the connection with this key.
pub fn cancel(key: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend(CANCEL.to_be_bytes());
    packet.extend(key);
    with_length(packet)
}

fn with_length(mut packet: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// An ErrorResponse that ends the connection.
pub fn error_response(refusal: &Refusal) -> Vec<u8> {
    let mut body = Vec::new();
    for (field, value) in [
        (b'S', "FATAL"),
        (b'V', "FATAL"),
        (b'C', refusal.code),
        (b'M', &refusal.message),
    ] {
        body.push(field);
        body.extend(value.bytes().filter(|&byte| byte != 0));
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut message = vec![b'E'];
    message.extend(length.to_be_bytes());
    message.extend(body);
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let own = |(name, value): &(&str, &str)| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        Startup {
            protocol: 196_608,
            parameters: parameters.iter().map(own).collect(),
        }
    }

    fn read_back(packet: &[u8]) -> InitialPacket {
        assert_eq!(following(packet[..4].try_into().unwrap()), Some(packet.len() - 4));
        parse(&packet[4..]).unwrap()
    }

    #[test]
    fn the_project_s_role_is_allowed_and_other_parameters_are_forwarded() {
        let given = startup(&[
            ("application_name", "psql"),
            ("user", "ada"),
            ("options", "-c search_path=s"),
        ]);

        let InitialPacket::Startup(sent) = read_back(&given.authorize("ada").unwrap()) else {
            panic!()
        };

        assert_eq!(sent.get("user"), Some(&b"ada"[..]));
        assert_eq!(sent.get("database"), Some(&b"ada"[..]));
        assert_eq!(sent.get("application_name"), Some(&b"psql"[..]));
        assert_eq!(sent.get("options"), Some(&b"-c search_path=s"[..]));
    }

    #[test]
    fn every_database_and_every_other_role_of_the_server_can_be_named() {
        for (user, database) in [
            ("ada", "ada_shadow"),
            ("ada", "postgres"),
            ("reader", "ada"),
            ("fsa ", "x"),
        ] {
            let packet = startup(&[("user", user), ("database", database)])
                .authorize("ada")
                .unwrap();
            let InitialPacket::Startup(sent) = read_back(&packet) else {
                panic!()
            };
            assert_eq!(sent.get("user"), Some(user.as_bytes()));
            assert_eq!(sent.get("database"), Some(database.as_bytes()));
        }
    }

    #[test]
    fn the_bootstrap_superuser_and_replication_are_refused() {
        for parameters in [
            &[][..],
            &[("user", "")],
            &[("user", "fsa")],
            &[("user", "fsa"), ("database", "ada")],
            &[("user", "ada"), ("replication", "database")],
            &[("user", "ada"), ("replication", "")],
        ] {
            let refusal = startup(parameters).authorize("ada").unwrap_err();
            assert_eq!(refusal.code, NOT_AUTHORIZED, "{parameters:?}");
        }
    }

    #[test]
    fn a_parameter_that_comes_twice_is_refused() {
        let mut packet = 196_608_u32.to_be_bytes().to_vec();
        packet.extend(b"user\0ada\0user\0bob\0\0");
        assert_eq!(parse(&packet).unwrap_err().code, PROTOCOL);
    }

    #[test]
    fn what_is_not_postgresql_is_refused() {
        assert_eq!(following(*b"GET "), None);
        assert_eq!(following([0x16, 3, 1, 2]), None);
        assert_eq!(following(7_u32.to_be_bytes()), None);
        assert_eq!(following(10_001_u32.to_be_bytes()), None);
        assert!(parse(&131_072_u32.to_be_bytes()).is_err(), "protocol 2");
        let mut trailing = 196_608_u32.to_be_bytes().to_vec();
        trailing.extend(b"user\0ada\0\0more");
        assert!(parse(&trailing).is_err());
    }

    #[test]
    fn encryption_and_cancel_requests_are_distinguished() {
        assert_eq!(
            parse(&80_877_103_u32.to_be_bytes()),
            Ok(InitialPacket::Encryption)
        );
        assert_eq!(
            parse(&80_877_104_u32.to_be_bytes()),
            Ok(InitialPacket::Encryption)
        );
        let key = [0, 0, 1, 2, 9, 8, 7, 6];
        assert_eq!(read_back(&cancel(&key)), InitialPacket::Cancel(key.to_vec()));
        assert!(parse(&[&80_877_102_u32.to_be_bytes()[..], &[1, 2, 3]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn an_allowed_packet_names_the_bootstrap_superuser_to_no_reader(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..60),
            names in proptest::collection::vec("user|database|replication|options|x", 0..5),
            values in proptest::collection::vec("ada|fsa||-c a=b", 5),
        ) {
            // Half of the packets are well-formed, so that the checks are reached.
            let mut packet = 196_608_u32.to_be_bytes().to_vec();
            for (name, value) in names.iter().zip(&values) {
                packet.extend(format!("{name}\0{value}\0").bytes());
            }
            bytes.truncate(bytes.len() % 7);
            packet.extend(&bytes);
            packet.push(0);
            if let Ok(InitialPacket::Startup(startup)) = parse(&packet) && let Ok(sent) = startup.authorize("ada") {
                let InitialPacket::Startup(read) = read_back(&sent) else { panic!() };
                // Like the server, the test uses the last value of a name.
                let last = |name: &str| read.parameters.iter().rev().find(|(n, _)| n == name.as_bytes()).map(|(_, v)| v.clone());
                prop_assert!(last("user").is_some_and(|user| !user.is_empty() && user != b"fsa"));
                prop_assert!(last("database").is_some_and(|database| !database.is_empty()));
                prop_assert_eq!(last("replication"), None);
            }
        }

        #[test]
        fn parameters_are_read_back_unchanged(pairs in proptest::collection::btree_map("[a-z_]{1,10}", "[^\0]{0,20}", 0..8)) {
            let mut pairs: Vec<_> = pairs.into_iter().filter(|(name, _)| name != "replication").collect();
            pairs.retain(|(name, _)| name != "user" && name != "database");
            pairs.push(("user".to_owned(), "ada".to_owned()));
            let given: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let packet = startup(&given).authorize("ada").unwrap();
            let InitialPacket::Startup(read) = read_back(&packet) else { panic!() };
            for (name, value) in &pairs {
                prop_assert_eq!(read.get(name), Some(value.as_bytes()));
            }
        }
    }
}
