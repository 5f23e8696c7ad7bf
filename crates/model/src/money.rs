//! Amounts of money in millionths of a US dollar, precise enough for the price of a single token.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Millionths of a US dollar. In JSON it is a number of dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

/// A million dollars, the largest amount that is accepted.
const MOST: f64 = 1_000_000.0;

impl Micros {
    /// From dollars, rounded to the nearest millionth.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let possible = dollars.is_finite() && (0.0..=MOST).contains(&dollars);
        #[allow(clippy::cast_possible_truncation)]
        possible.then(|| Self((dollars * 1e6).round() as i64))
    }

    #[must_use]
    #[allow(clippy::cast_precision_loss)]
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "${:.2}", self.dollars())
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let dollars = f64::deserialize(deserializer)?;
        Self::from_dollars(dollars)
            .ok_or_else(|| D::Error::custom("an amount is a number of dollars from 0 to 1000000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_written_in_dollars() {
        let amount: Micros = serde_json::from_str("0.25").unwrap();
        assert_eq!(amount, Micros(250_000));
        assert_eq!(serde_json::to_string(&amount).unwrap(), "0.25");
        for wrong in ["-1", "1e300", "\"1\""] {
            assert!(serde_json::from_str::<Micros>(wrong).is_err(), "{wrong}");
        }
    }
}
