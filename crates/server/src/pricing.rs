//! Pricing of tokens: a table of US dollars per million tokens, by provider and prefix of the model name. A
//! setting replaces it, because prices change and contracts differ.

use std::collections::BTreeMap;

use fsa_model::{llm_provider::Provider, money::Micros};
use serde::Deserialize;

/// Token counts of one response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenUsage {
    pub model: Option<String>,
    /// Excludes tokens read from or written to a cache.
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
}

/// US dollars per million tokens, which equals millionths of a dollar per token.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Price {
    input: f64,
    output: f64,
    cache_read: f64,
    cache_write: f64,
}

/// The table.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Prices(BTreeMap<Provider, BTreeMap<String, Price>>);

impl Default for Prices {
    /// The providers' public prices at the time of writing.
    fn default() -> Self {
        Self::parse(include_str!("prices.json")).expect("the built-in table is valid; a test checks it")
    }
}

impl Prices {
    /// Parses a table.
    ///
    /// # Errors
    /// A sentence that describes the error.
    pub fn parse(text: &str) -> Result<Self, String> {
        let prices: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        for price in prices.0.values().flat_map(BTreeMap::values) {
            let all = [price.input, price.output, price.cache_read, price.cache_write];
            if all.iter().any(|price| !price.is_finite() || *price < 0.0) {
                return Err("a price is negative".into());
            }
        }
        Ok(prices)
    }

    /// The cost of the counted tokens. A model that is not in the table costs as much as the most expensive one
    /// of its provider, so that a model name cannot bypass a budget.
    #[must_use]
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
    pub fn cost(&self, provider: Provider, counted: &TokenUsage) -> Micros {
        let Some(price) = self.of(provider, counted.model.as_deref().unwrap_or_default()) else {
            return Micros(0);
        };
        let cost = counted.input as f64 * price.input
            + counted.output as f64 * price.output
            + counted.cache_read as f64 * price.cache_read
            + counted.cache_write as f64 * price.cache_write;
        Micros(cost.ceil() as i64)
    }

    /// Whether the table contains this model.
    #[must_use]
    pub fn knows(&self, provider: Provider, model: &str) -> bool {
        self.known(provider, model).is_some()
    }

    fn known(&self, provider: Provider, model: &str) -> Option<Price> {
        let table = self.0.get(&provider)?;
        let best = table.iter().filter(|(name, _)| model.starts_with(name.as_str()));
        best.max_by_key(|(name, _)| name.len()).map(|(_, price)| *price)
    }

    fn of(&self, provider: Provider, model: &str) -> Option<Price> {
        self.known(provider, model).or_else(|| {
            let all = self.0.get(&provider)?.values();
            all.copied().max_by(|a, b| a.output.total_cmp(&b.output))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(model: &str) -> TokenUsage {
        TokenUsage {
            model: Some(model.into()),
            input: 1_000_000,
            output: 100_000,
            cache_read: 0,
            cache_write: 0,
        }
    }

    #[test]
    fn the_longest_matching_prefix_has_the_price() {
        let prices = Prices::default();
        let cost = |model| prices.cost(Provider::Anthropic, &counted(model)).dollars();
        assert!((cost("claude-opus-4-1-20250805") - 22.5).abs() < 1e-9);
        assert!((cost("claude-opus-4-5-20251101") - 7.5).abs() < 1e-9);
        assert!((cost("claude-haiku-4-5") - 1.5).abs() < 1e-9);
    }

    #[test]
    fn unknown_models_cost_as_much_as_the_most_expensive() {
        let prices = Prices::default();
        let known = prices.cost(Provider::Anthropic, &counted("claude-opus-4"));
        assert_eq!(prices.cost(Provider::Anthropic, &counted("nobody-knows")), known);
    }

    #[test]
    fn invalid_price_tables_are_rejected() {
        for wrong in [
            "{}x",
            r#"{"nobody": {}}"#,
            r#"{"openai": {"m": {"input": -1, "output": 1, "cacheRead": 0, "cacheWrite": 0}}}"#,
            r#"{"openai": {"m": {"input": 1}}}"#,
        ] {
            assert!(Prices::parse(wrong).is_err(), "{wrong}");
        }
    }
}
