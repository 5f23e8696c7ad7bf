//! The in-memory driver, for tests of everything above a driver.
