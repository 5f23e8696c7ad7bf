//! The workers' side of the tables: claims, leases, and what was observed.
