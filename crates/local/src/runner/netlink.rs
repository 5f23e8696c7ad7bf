//! Minimal rtnetlink(7) client: a veth pair, addresses, routes, neighbors.
//!
//! Compared with `rtnetlink` (asynchronous: needs a runtime and a task per socket) and
//! `netlink-packet-route` (types for each message, without a socket). A start needs a dozen
//! messages of six kinds: they are built into one buffer, sent with one system call and
//! acknowledged together. Layouts are from linux/rtnetlink.h, linux/if_link.h and
//! linux/neighbour.h.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
/// NLM_F_CREATE | NLM_F_EXCL
const CREATE: u16 = 0x400 | 0x200;
/// NLM_F_CREATE | NLM_F_REPLACE
const REPLACE: u16 = 0x400 | 0x100;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

const AF_INET: u8 = 2;
const IFF_UP: u32 = 1;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const NUD_PERMANENT: u16 = 0x80;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One end of a new link pair.
pub struct VethEnd<'a> {
    pub name: &'a str,
    pub mac: Mac,
}

/// Messages that are sent together.
#[derive(Default)]
pub struct Batch {
    bytes: Vec<u8>,
    begin: usize,
    count: u32,
    what: Vec<&'static str>,
}

impl Batch {
    fn open(&mut self, what: &'static str, kind: u16, flags: u16, header: &[u8]) {
        self.begin = self.bytes.len();
        self.count += 1;
        self.what.push(what);
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&self.count.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(header);
        self.pad();
    }

    fn close(&mut self) {
        let length = u32::try_from(self.bytes.len() - self.begin).unwrap_or(u32::MAX);
        self.bytes[self.begin..self.begin + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |batch| batch.bytes.extend_from_slice(value));
    }

    fn name(&mut self, name: &str) {
        self.attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    }

    fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        inside(self);
        let length = u16::try_from(self.bytes.len() - at).unwrap_or(u16::MAX);
        self.bytes[at..at + 2].copy_from_slice(&length.to_ne_bytes());
        self.pad();
    }

    /// A veth pair, whose far end is created in `namespace`. `group` marks the near end for
    /// the firewall.
    #[must_use]
    pub fn link_pair(
        mut self,
        near: &VethEnd<'_>,
        group: u32,
        far: &VethEnd<'_>,
        namespace: BorrowedFd<'_>,
        mtu: u32,
    ) -> Self {
        self.open("create a link", RTM_NEWLINK, CREATE, &link_header(0, 0, 0));
        self.name(near.name);
        self.attribute(IFLA_ADDRESS, &near.mac);
        self.attribute(IFLA_MTU, &mtu.to_ne_bytes());
        self.attribute(IFLA_GROUP, &group.to_ne_bytes());
        self.nest(IFLA_LINKINFO, |batch| {
            batch.attribute(IFLA_INFO_KIND, b"veth");
            batch.nest(IFLA_INFO_DATA, |batch| {
                batch.nest(VETH_INFO_PEER, |batch| {
                    batch.bytes.extend_from_slice(&link_header(0, 0, 0));
                    batch.name(far.name);
                    batch.attribute(IFLA_ADDRESS, &far.mac);
                    batch.attribute(IFLA_MTU, &mtu.to_ne_bytes());
                    batch.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.close();
        self
    }

    /// Sets a link up.
    #[must_use]
    pub fn up(mut self, index: u32) -> Self {
        self.open(
            "set a link up",
            RTM_NEWLINK,
            0,
            &link_header(index, IFF_UP, IFF_UP),
        );
        self.close();
        self
    }

    /// Removes a link, and with it the other end of its pair.
    #[must_use]
    pub fn remove(mut self, name: &str) -> Self {
        self.open("remove a link", RTM_DELLINK, 0, &link_header(0, 0, 0));
        self.name(name);
        self.close();
        self
    }

    /// Adds an address without neighbors (/32) to a link.
    #[must_use]
    pub fn address(mut self, index: u32, address: Ipv4Addr) -> Self {
        let mut header = vec![AF_INET, 32, 0, RT_SCOPE_UNIVERSE];
        header.extend_from_slice(&index.to_ne_bytes());
        self.open("add an address", RTM_NEWADDR, REPLACE, &header);
        self.attribute(IFA_LOCAL, &address.octets());
        self.attribute(IFA_ADDRESS, &address.octets());
        self.close();
        self
    }

    /// A route to one address that is found at the other end of a link.
    #[must_use]
    pub fn route_to(mut self, index: u32, address: Ipv4Addr) -> Self {
        self.open(
            "add a route",
            RTM_NEWROUTE,
            REPLACE,
            &route_header(32, RT_SCOPE_LINK),
        );
        self.attribute(RTA_DST, &address.octets());
        self.attribute(RTA_OIF, &index.to_ne_bytes());
        self.close();
        self
    }

    /// The route to everywhere else.
    #[must_use]
    pub fn default_route(mut self, index: u32, gateway: Ipv4Addr) -> Self {
        self.open(
            "add the default route",
            RTM_NEWROUTE,
            REPLACE,
            &route_header(0, RT_SCOPE_UNIVERSE),
        );
        self.attribute(RTA_GATEWAY, &gateway.octets());
        self.attribute(RTA_OIF, &index.to_ne_bytes());
        self.close();
        self
    }

    /// A permanent neighbor entry: the Ethernet address of an IP address, so that there is no ARP
    /// to spoof.
    #[must_use]
    pub fn neighbor(mut self, index: u32, address: Ipv4Addr, mac: Mac) -> Self {
        let mut header = vec![AF_INET, 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        header.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        header.extend_from_slice(&[0, RTN_UNICAST]);
        self.open("add a neighbor", RTM_NEWNEIGH, REPLACE, &header);
        self.attribute(NDA_DST, &address.octets());
        self.attribute(NDA_LLADDR, &mac);
        self.close();
        self
    }
}

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn route_header(bits: u8, scope: u8) -> [u8; 12] {
    [
        AF_INET,
        bits,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        scope,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}

/// A netlink socket of the network namespace in which it was made, wherever it is used.
pub struct Netlink(OwnedFd);

impl Netlink {
    /// # Errors
    /// Where the kernel refuses a netlink socket.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )?;
        Ok(Self(socket))
    }

    /// Sends the messages and waits for the acknowledgment of each.
    ///
    /// # Errors
    /// The first error, with its message; later messages were carried out nevertheless.
    pub fn send(&self, batch: &Batch) -> io::Result<()> {
        rustix::net::send(&self.0, &batch.bytes, SendFlags::empty())?;
        let mut waiting = batch.count;
        let mut refused = Ok(());
        self.answers(|kind, sequence, body| {
            if kind != NLMSG_ERROR {
                return false;
            }
            waiting -= 1;
            if let Some(error) = errno(body)
                && refused.is_ok()
            {
                let what = batch.what.get(sequence as usize - 1).unwrap_or(&"do it");
                refused = Err(io::Error::new(error.kind(), Refused { what, error }));
            }
            waiting == 0
        })?;
        refused
    }

    /// The index of a link, where there is one of that name.
    ///
    /// # Errors
    /// Where the kernel's answer cannot be read.
    pub fn index(&self, name: &str) -> io::Result<Option<u32>> {
        let mut batch = Batch::default();
        batch.open("find a link", RTM_GETLINK, 0, &link_header(0, 0, 0));
        batch.name(name);
        batch.close();
        rustix::net::send(&self.0, &batch.bytes, SendFlags::empty())?;
        let (mut index, mut failure) = (None, None);
        self.answers(|kind, _, body| {
            if kind == RTM_NEWLINK && body.len() >= 8 {
                index = Some(u32::from_ne_bytes([body[4], body[5], body[6], body[7]]));
            }
            if kind == NLMSG_ERROR {
                failure = errno(body);
            }
            kind == NLMSG_ERROR
        })?;
        match failure {
            Some(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
            _ => Ok(index),
        }
    }

    /// Reads until `take(kind, sequence, body)` returns true for the last message.
    fn answers(&self, mut take: impl FnMut(u16, u32, &[u8]) -> bool) -> io::Result<()> {
        let mut buffer = vec![0u8; 32 * 1024];
        loop {
            let (_, length) = rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..length.min(buffer.len())];
            while rest.len() >= 16 {
                let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if length < 16 || length > rest.len() {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a netlink answer is malformed",
                    ));
                }
                let kind = u16::from_ne_bytes([rest[4], rest[5]]);
                let sequence = u32::from_ne_bytes([rest[8], rest[9], rest[10], rest[11]]);
                if take(kind, sequence, &rest[16..length]) {
                    return Ok(());
                }
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            }
        }
    }
}

/// An error response of the kernel to one message.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refused to {what} ({error})")]
struct Refused {
    what: &'static str,
    error: io::Error,
}

fn errno(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}
