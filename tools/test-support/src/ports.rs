//! Free loopback ports.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, TcpListener};

use crate::Error;

/// Below the ranges from which Linux (32768 to 60999) and macOS (from 49152) take the local ports of outgoing
/// connections: a port stays free while the server behind it is restarted.
const FIRST: u64 = 20_000;
const COUNT: u64 = 12_000;
const ATTEMPTS: u64 = 200;

/// `count` different ports that nobody listens on just now. Another process may be faster to use one: the caller has
/// to try again then.
pub(crate) fn free(count: usize) -> Result<Vec<u16>, Error> {
    let mut held = Vec::new();
    for _ in 0..ATTEMPTS {
        // Every `RandomState` has other keys; the hash of nothing is then a random number.
        let number = FIRST + RandomState::new().build_hasher().finish() % COUNT;
        let Ok(port) = u16::try_from(number) else { continue };
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    Err(Error::io("find free ports on 127.0.0.1")(
        std::io::ErrorKind::AddrInUse.into(),
    ))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn free_ports_are_different_and_can_be_bound() {
        let mut ports = free(3).unwrap();
        for port in &ports {
            let started = Instant::now();
            // A process that another test just starts may hold a copy of our listener for a moment.
            while let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
                assert!(
                    started.elapsed() < Duration::from_secs(10),
                    "port {port}: {error}"
                );
            }
        }
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 3);
    }
}
