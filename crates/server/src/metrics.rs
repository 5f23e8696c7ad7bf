//! Prometheus metrics. Each part registers its own metrics with [`Metrics::register`].
//!
//! Every value of a label comes from a fixed set, never from a client or a sandbox: each distinct value is kept until
//! the process ends.

use std::{collections::BTreeMap, sync::atomic::AtomicI64, time::Duration};

use fsa_driver::{Regions, StoragePoolStatus};
use http::{Method, StatusCode};
use parking_lot::{Mutex, RwLock};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

/// The metrics of one process.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    latency: Family<RouteLabels, Histogram>,
    authentication: Histogram,
    /// Open connections to the server.
    pub connections: Gauge<i64, AtomicI64>,
    failures: RwLock<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// The counters of the regions' drivers, collected on each scrape.
struct RegionCalls(Regions);

impl std::fmt::Debug for RegionCalls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("RegionCalls")
    }
}

impl Collector for RegionCalls {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut family = encoder.encode_descriptor(
            "region_calls",
            "Requests sent to a region's own API",
            None,
            MetricType::Counter,
        )?;
        for region in self.0.iter() {
            for calls in region.driver.request_counts() {
                let labels = [
                    ("region", region.name.as_str()),
                    ("verb", calls.verb),
                    ("resource", calls.resource.as_str()),
                ];
                ConstCounter::new(calls.count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// The database servers of the regions that have one per volume, collected on each scrape.
struct DatabaseServers(Regions);

impl std::fmt::Debug for DatabaseServers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("DatabaseServers")
    }
}

impl Collector for DatabaseServers {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let counts: Vec<_> = self
            .0
            .iter()
            .filter_map(|region| Some((region.name.as_str(), region.databases.server_counts()?)))
            .collect();
        if counts.is_empty() {
            return Ok(());
        }
        let mut running = encoder.encode_descriptor(
            "database_servers_running",
            "Running database servers of projects, as last observed",
            None,
            MetricType::Gauge,
        )?;
        for (region, counts) in &counts {
            let number = i64::try_from(counts.running).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(running.encode_family(&[("region", *region)])?)?;
        }
        let mut starts = encoder.encode_descriptor(
            "database_server_starts",
            "Starts of projects' database servers",
            None,
            MetricType::Counter,
        )?;
        for (region, counts) in &counts {
            ConstCounter::new(counts.starts).encode(starts.encode_family(&[("region", *region)])?)?;
        }
        let mut stops = encoder.encode_descriptor(
            "database_server_idle_stops",
            "Stops of projects' database servers that were idle",
            None,
            MetricType::Counter,
        )?;
        for (region, counts) in &counts {
            ConstCounter::new(counts.stops).encode(stops.encode_family(&[("region", *region)])?)?;
        }
        Ok(())
    }
}

/// The storage pools of the regions that have one, collected on each scrape.
struct StoragePools(Regions);

impl std::fmt::Debug for StoragePools {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("StoragePools")
    }
}

impl Collector for StoragePools {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        type Value = fn(&StoragePoolStatus) -> u64;
        const GAUGES: [(&str, &str, Value); 5] = [
            ("storage_pool_size_bytes", "Size of the storage pool", |pool| {
                pool.size_bytes
            }),
            (
                "storage_pool_free_bytes",
                "Bytes that files may still fill",
                |pool| pool.free_bytes,
            ),
            ("storage_pool_metadata_bytes", "Bytes used by metadata", |pool| {
                pool.metadata_bytes
            }),
            (
                "storage_pool_full",
                "1 if the pool is so full that nothing is started",
                |pool| u64::from(pool.full),
            ),
            (
                "storage_pool_device_errors",
                "Errors of the pool's devices",
                |pool| pool.device_errors,
            ),
        ];
        let pools: Vec<_> = self
            .0
            .iter()
            .filter_map(|region| Some((region.name.as_str(), region.driver.storage_pool()?)))
            .collect();
        if pools.is_empty() {
            return Ok(());
        }
        for (name, help, value) in GAUGES {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (region, pool) in &pools {
                let number = i64::try_from(value(pool)).unwrap_or(i64::MAX);
                ConstGauge::new(number).encode(gauge.encode_family(&[("region", *region)])?)?;
            }
        }
        Ok(())
    }
}

impl Metrics {
    /// Metrics of a process with these regions.
    #[must_use]
    pub fn new(regions: &Regions) -> Self {
        let mut registry = Registry::with_prefix("fsa");
        registry.register_collector(Box::new(RegionCalls(regions.clone())));
        registry.register_collector(Box::new(DatabaseServers(regions.clone())));
        registry.register_collector(Box::new(StoragePools(regions.clone())));
        let requests = Family::default();
        // Half a millisecond to half a minute, in seconds.
        let latency = Family::new_with_constructor(
            (|| {
                Histogram::new([
                    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0,
                ])
            }) as fn() -> Histogram,
        );
        let connections = Gauge::default();
        registry.register("http_requests", "Answered requests", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time until the response head",
            latency.clone(),
        );
        // A microsecond to a tenth of a second: a cache hit, or a database query.
        let authentication = Histogram::new([0.000_001, 0.000_01, 0.000_1, 0.001, 0.01, 0.1]);
        registry.register(
            "authentication_duration_seconds",
            "Time to authenticate a request",
            authentication.clone(),
        );
        registry.register("http_connections", "Open connections", connections.clone());
        Self {
            registry: Mutex::new(registry),
            requests,
            latency,
            authentication,
            connections,
            failures: RwLock::default(),
        }
    }

    /// Registers the metrics of a part of the server, once.
    pub fn register(&self, register: impl FnOnce(&mut Registry)) {
        register(&mut self.registry.lock());
    }

    /// Reports that a part of the server has failed, with the reason in one sentence, or (`None`) that it works
    /// again. `/readyz` shows it.
    pub fn report(&self, part: &str, failure: Option<String>) {
        let mut failures = self.failures.write();
        match failure {
            Some(failure) => failures.insert(part.to_owned(), failure),
            None => failures.remove(part),
        };
    }

    /// The reported failures that still hold.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<String, String> {
        self.failures.read().clone()
    }

    /// Counts one request. `route` is the pattern, never the path: the number of paths is unbounded.
    pub(crate) fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        self.requests
            .get_or_create(&RequestLabels {
                method: method_label(method),
                route: route.to_owned(),
                status: status_label(status),
            })
            .inc();
        self.latency
            .get_or_create(&RouteLabels {
                route: route.to_owned(),
            })
            .observe(took.as_secs_f64());
    }

    /// Records how long the authentication of a request took.
    pub(crate) fn authenticated(&self, took: Duration) {
        self.authentication.observe(took.as_secs_f64());
    }

    /// Encodes all metrics in the text format of OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock());
        text
    }
}

/// The standard methods by name; a client can send any other word.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::CONNECT => "CONNECT",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// The registered statuses, and the first of its class for any other: a sandbox's answer may have any status.
fn status_label(status: StatusCode) -> u16 {
    match status.canonical_reason() {
        Some(_) => status.as_u16(),
        None => status.as_u16() / 100 * 100,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_input_creates_no_time_series() {
        let metrics = Metrics::new(&Regions::new(Vec::new()));
        let count = |method: &str, status: u16| {
            let (method, status) = (method.parse().unwrap(), StatusCode::from_u16(status).unwrap());
            metrics.count(&method, "/x", status, Duration::ZERO);
        };
        let series = || {
            metrics
                .encode()
                .lines()
                .filter(|line| line.contains("http_requests_total"))
                .count()
        };
        for method in [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ] {
            count(method, 200);
        }
        let before = series();
        for method in 0..100 {
            count(&format!("M{method}"), 200);
        }
        assert_eq!(series(), before + 1, "all of them are `other`");
        assert!(
            metrics
                .encode()
                .contains(r#"method="other",route="/x",status="200"} 100"#)
        );
        for status in 550..600 {
            count("GET", status);
        }
        assert_eq!(series(), before + 2);
    }
}
