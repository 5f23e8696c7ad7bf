//! Value of a limit per user: a number, or `none`, which also lifts the default of members.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de};

/// A limit as the operator set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserLimit {
    AtMost(u64),
    Unlimited,
}

impl UserLimit {
    /// The limit that applies: what is set, else the default.
    #[must_use]
    pub fn or(set: Option<Self>, default: Option<u64>) -> Option<u64> {
        match set {
            Some(Self::AtMost(limit)) => Some(limit),
            Some(Self::Unlimited) => None,
            None => default,
        }
    }
}

impl FromStr for UserLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::Unlimited),
            number => number
                .parse()
                .map(Self::AtMost)
                .map_err(|_| format!("{text:?} is neither a number nor none")),
        }
    }
}

/// As a number or as the text `none`, in TOML.
impl<'de> Deserialize<'de> for UserLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = UserLimit;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number of 0 or more, or \"none\"")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<UserLimit, E> {
                Ok(UserLimit::AtMost(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<UserLimit, E> {
                u64::try_from(number)
                    .map(UserLimit::AtMost)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<UserLimit, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_or_none_in_a_flag_and_in_the_file() {
        assert_eq!("7".parse(), Ok(UserLimit::AtMost(7)));
        assert_eq!("none".parse(), Ok(UserLimit::Unlimited));
        "many".parse::<UserLimit>().unwrap_err();
        let from_file = |text: &str| {
            let table: std::collections::BTreeMap<String, UserLimit> = toml::from_str(text)?;
            Ok::<_, toml::de::Error>(table["limit"])
        };
        assert_eq!(from_file("limit = 7").unwrap(), UserLimit::AtMost(7));
        assert_eq!(from_file("limit = \"none\"").unwrap(), UserLimit::Unlimited);
        from_file("limit = -1").unwrap_err();
    }

    #[test]
    fn none_lifts_the_default_and_an_absent_value_keeps_it() {
        assert_eq!(UserLimit::or(None, Some(10)), Some(10));
        assert_eq!(UserLimit::or(Some(UserLimit::Unlimited), Some(10)), None);
        assert_eq!(UserLimit::or(Some(UserLimit::AtMost(3)), Some(10)), Some(3));
    }
}
