//! Requests to the Kubernetes API server, from the server's own metrics at /metrics.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::{AddAssign, Sub},
};

use fsa_tests::Api;
use reqwest::Method;

/// Counts by verb and resource.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts(BTreeMap<(String, String), u64>);

impl RequestCounts {
    /// So far, for one region.
    pub async fn read(api: &Api, region: &str) -> Self {
        let answer = api
            .request(Method::GET, "/metrics")
            .send()
            .await
            .expect("figures");
        let text = answer.text().await.expect("figures");
        let prefix = format!("fsa_region_calls_total{{region=\"{region}\",");
        Self(
            text.lines()
                .filter_map(|line| parse_line(line.strip_prefix(&prefix)?))
                .collect(),
        )
    }

    #[must_use]
    pub fn watches(&self) -> u64 {
        self.0
            .iter()
            .filter(|((verb, _), _)| verb == "watch")
            .map(|(_, count)| count)
            .sum()
    }

    #[must_use]
    pub fn without_watches(&self) -> u64 {
        self.0.values().sum::<u64>() - self.watches()
    }

    /// Requests per one of `lifetimes`, as Markdown.
    #[must_use]
    pub fn table(&self, lifetimes: usize) -> String {
        let mut text = String::from("| verb | resource | each |\n|---|---|---:|\n");
        let mut sum = 0.0;
        for ((verb, resource), &count) in &self.0 {
            if count > 0 && verb != "watch" {
                let each = count as f64 / lifetimes as f64;
                sum += each;
                let _ = writeln!(text, "| {verb} | {resource} | {each:.1} |");
            }
        }
        let _ = writeln!(text, "| | together | {sum:.1} |");
        text
    }
}

/// `verb="patch",resource="pods"} 12`
fn parse_line(line: &str) -> Option<((String, String), u64)> {
    let (labels, count) = line.split_once("} ")?;
    let mut labels = labels.split(',').filter_map(|pair| {
        let (_, value) = pair.split_once('=')?;
        Some(value.trim_matches('"').to_owned())
    });
    Some(((labels.next()?, labels.next()?), count.trim().parse().ok()?))
}

impl Sub for RequestCounts {
    type Output = Self;

    fn sub(mut self, before: Self) -> Self {
        for (kind, count) in before.0 {
            *self.0.entry(kind).or_default() -= count;
        }
        self
    }
}

impl AddAssign for RequestCounts {
    fn add_assign(&mut self, more: Self) {
        for (kind, count) in more.0 {
            *self.0.entry(kind).or_default() += count;
        }
    }
}
