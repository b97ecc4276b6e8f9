//! Opening a port, for both families of addresses where the machine has both.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Length of the system's queue of connections that are not accepted yet; the system may lower it.
const BACKLOG: i32 = 1024;
/// The size of the system's send buffer for one connection. By default the system lets it grow to megabytes for a slow
/// reader, and they count as memory of the container.
const SEND_BUFFER: usize = 64 << 10;

/// Opens `address`. `[::]` takes both families, and becomes `0.0.0.0` on a machine without IPv6.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    with_fallback(address, open)
}

fn with_fallback<L>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<L>) -> io::Result<L> {
    match open(address) {
        Err(error) if is_every_address(address) && lacks_ipv6(&error) => {
            open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
        }
        result => result,
    }
}

/// True for `[::]`.
fn is_every_address(address: SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

/// True for the errors of socket(2) without IPv6 in the kernel, and of bind(2) with IPv6 switched off.
fn lacks_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if is_every_address(address) {
        // Whatever the default of the machine is (net.ipv6.bindv6only).
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use rstest::rstest;
    use rustix::io::Errno;

    use super::*;

    /// The addresses that are tried on a machine whose IPv6 fails with `error`.
    fn tried(address: &str, error: Errno) -> (io::Result<()>, Vec<String>) {
        let tried = RefCell::new(Vec::new());
        let result = with_fallback(address.parse().unwrap(), |address| {
            tried.borrow_mut().push(address.to_string());
            if address.is_ipv6() {
                return Err(io::Error::from_raw_os_error(error.raw_os_error()));
            }
            Ok(())
        });
        (result, tried.into_inner())
    }

    #[rstest]
    #[case::kernel_without_ipv6(Errno::AFNOSUPPORT)]
    #[case::ipv6_switched_off(Errno::ADDRNOTAVAIL)]
    fn without_ipv6_every_address_is_that_of_ipv4(#[case] error: Errno) {
        let (result, tried) = tried("[::]:8081", error);
        assert!(result.is_ok());
        assert_eq!(tried, ["[::]:8081", "0.0.0.0:8081"]);
    }

    #[rstest]
    #[case::port_in_use("[::]:8081", Errno::ADDRINUSE)]
    #[case::one_address("[2001:db8::1]:8081", Errno::ADDRNOTAVAIL)]
    fn no_other_failure_opens_another_address(#[case] address: &str, #[case] error: Errno) {
        let (result, tried) = tried(address, error);
        assert!(result.is_err());
        assert_eq!(tried, [address]);
    }
}
