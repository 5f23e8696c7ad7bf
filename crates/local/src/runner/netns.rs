//! Network namespaces: creating and entering one, and sockets in it.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
};

use nix::sched::CloneFlags;
use socket2::{Domain, Protocol, Socket, Type};

use super::netlink::{Batch, Netlink};

/// The sandboxes' gateway and, on port 53, the machine's first resolver. No host has the address:
/// it is link-local, and port 53 is translated (DNAT).
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Moves the calling thread into a network namespace. Only for threads that end soon after.
///
/// # Errors
/// The kernel's.
pub fn enter(namespace: &OwnedFd) -> io::Result<()> {
    Ok(nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?)
}

/// Unconnected TCP sockets of the calling thread's namespace: two IPv4, and IPv6 where it is.
///
/// # Errors
/// The kernel's.
pub fn sockets() -> io::Result<Vec<OwnedFd>> {
    let make = |domain| -> io::Result<OwnedFd> {
        let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket.into())
    };
    let mut sockets = vec![make(Domain::IPV4)?, make(Domain::IPV4)?];
    sockets.extend(make(Domain::IPV6).ok());
    Ok(sockets)
}

/// A listening TCP socket of the calling thread's namespace.
///
/// # Errors
/// `AddrInUse` where the sandbox itself listens there.
pub fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(512)?;
    Ok(socket.into())
}

/// A new namespace with its loopback up, and a netlink socket in it. Created on a dedicated
/// thread that ends there, so no other thread is ever in the wrong namespace.
pub fn new() -> io::Result<(OwnedFd, Netlink)> {
    thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(CloneFlags::CLONE_NEWNET)?;
                // Only the loopback has IPv6.
                sysctl("ipv6/conf/default/disable_ipv6", "1");
                // A sandbox has one user: ports below 1024 and ping are allowed for all.
                sysctl("ipv4/ip_unprivileged_port_start", "0");
                sysctl("ipv4/ping_group_range", "0 2147483647");
                let netlink = Netlink::open()?;
                netlink.send(&Batch::default().up(1))?;
                let namespace = fs::File::open("/proc/thread-self/ns/net")?;
                Ok((namespace.into(), netlink))
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that made it panicked")))
    })
}

/// Sets a value below /proc/sys/net of the calling thread's namespace. A missing one (IPv6
/// switched off) is no error.
pub fn sysctl(name: &str, value: &str) {
    if let Err(error) = fs::write(format!("/proc/sys/net/{name}"), value)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(name, value, %error, "a network setting could not be set");
    }
}
