//! Network of a sandbox: a network namespace and a routed veth pair, without a bridge.
//!
//! The name of the near interface, `fsa<slot>`, is also the claim on the slot: a name exists once
//! on the machine, for all data folders, and is free again when the namespace ends, so no list of
//! slots can be wrong. The slot determines the address and the range of user ids. Both sides have
//! a permanent neighbor entry for the other: there is no ARP to spoof, and the near side needs no
//! address.
//!
//! The namespace belongs to the machine's user namespace, not to the sandbox's: root in a
//! sandbox cannot change its address, its routes or its interface. It has IPv4 to the outside,
//! and IPv6 on its loopback.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
};

use fsa_model::{Failure, ResourceName};

use super::{
    config::RunnerConfig,
    layout::Layout,
    netlink::{Batch, Mac, Netlink, VethEnd},
    netns::{self, GATEWAY},
    pasta::{Pasta, PastaLauncher},
    privilege_mode::PrivilegeMode,
};
use crate::protocol::machine;

/// Prefix of the near interfaces' names.
pub const PREFIX: &str = "fsa";
/// Slots are numbered from 1; the highest user id stays below 2^31, which some programs need.
pub const SLOTS: u32 = (0x8000_0000 - 0x1000_0000) / 65_536 - 1;
const INSIDE: &str = "eth0";

/// A sandbox's network, held by the runner.
#[derive(Debug)]
pub struct SandboxNetwork {
    pub slot: u32,
    pub address: Ipv4Addr,
    pub namespace: OwnedFd,
    pasta: Option<Pasta>,
}

/// Creates the networks of sandboxes.
pub struct Networks {
    uplink: Uplink,
    /// The interface group of all near interfaces, which the firewall's rules match.
    group: u32,
    base: Ipv4Addr,
    mtu: u32,
    next: AtomicU32,
}

/// How a sandbox reaches the network.
enum Uplink {
    Veth,
    Pasta(PastaLauncher),
    /// None.
    Loopback,
}

/// Rootless sandboxes share no network, so all use the same slot.
const ONLY_SLOT: u32 = 1;

impl Networks {
    /// Chooses how networks are created in this privilege mode, and tries pasta. Also returns why
    /// sandboxes cannot reach the network, if they cannot.
    #[must_use]
    pub fn open(
        privilege_mode: PrivilegeMode,
        layout: &Layout,
        config: &RunnerConfig,
    ) -> (Self, Option<String>) {
        let group = layout.group();
        let mut networks = Self {
            uplink: Uplink::Veth,
            group,
            base: config.address_base,
            mtu: mtu_outward().unwrap_or(1500),
            // Folders begin at different slots, so that they seldom try the same slot.
            next: AtomicU32::new(group % SLOTS),
        };
        if privilege_mode == PrivilegeMode::Root {
            return (networks, None);
        }
        let tried = PastaLauncher::new(
            layout.networks(),
            layout.scratch(),
            &config.allowed_networks,
            &config.resolvers,
        )
        .map_err(|error| creation_failed(&error))
        .and_then(|pasta| {
            networks.uplink = Uplink::Pasta(pasta);
            // No sandbox's name: it has no hyphen.
            let network = networks.make_in_namespace("probe")?;
            networks.remove(&network);
            Ok(())
        });
        let why = tried.err().map(|failure| {
            networks.uplink = Uplink::Loopback;
            format!("sandboxes cannot reach the network, only their database: {failure}")
        });
        (networks, why)
    }

    /// Adopts the network of a running sandbox.
    #[must_use]
    pub fn adopt(&self, slot: u32, namespace: OwnedFd, resource: &ResourceName) -> SandboxNetwork {
        SandboxNetwork {
            slot,
            address: self.address(slot),
            namespace,
            pasta: match &self.uplink {
                Uplink::Pasta(pasta) => pasta.find(resource.as_str()),
                Uplink::Veth | Uplink::Loopback => None,
            },
        }
    }

    /// Whether a network is still complete.
    #[must_use]
    pub fn exists(&self, network: &SandboxNetwork) -> bool {
        match &self.uplink {
            Uplink::Veth => exists(network.slot),
            Uplink::Pasta(_) => network.pasta.as_ref().is_some_and(Pasta::is_alive),
            Uplink::Loopback => true,
        }
    }

    /// Removes a network at once.
    pub fn remove(&self, network: &SandboxNetwork) {
        match (&self.uplink, &network.pasta) {
            (Uplink::Veth, _) => remove(network.slot),
            (_, Some(pasta)) => pasta.end(),
            (_, None) => {}
        }
    }

    /// Ends processes of networks that a killed runner left, except those to `keep`.
    pub fn end_all_but(&self, keep: impl Fn(&str) -> bool) {
        if let Uplink::Pasta(pasta) = &self.uplink {
            pasta.end_all_but(keep);
        }
    }

    /// A network without an interface on the machine's side.
    fn make_in_namespace(&self, name: &str) -> Result<SandboxNetwork, Failure> {
        let (namespace, inside) = netns::new().map_err(|e| creation_failed(&e))?;
        let mut network = SandboxNetwork {
            slot: ONLY_SLOT,
            address: self.address(ONLY_SLOT),
            namespace,
            pasta: None,
        };
        if let Uplink::Pasta(pasta) = &self.uplink {
            network.pasta = Some(pasta.open(name, &network.namespace, network.address, INSIDE, self.mtu)?);
            let configured = index(&inside, INSIDE).and_then(|eth| {
                inside.send(
                    &Batch::default()
                        .address(eth, network.address)
                        .up(eth)
                        .route_to(eth, GATEWAY)
                        .default_route(eth, GATEWAY),
                )
            });
            if let Err(error) = configured {
                self.remove(&network);
                return Err(creation_failed(&error));
            }
        }
        Ok(network)
    }

    #[must_use]
    pub fn address(&self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.base).wrapping_add(256 + slot))
    }

    /// Creates a namespace and its veth pair. A failure leaves nothing behind: the namespace ends
    /// with its descriptor, and the pair with the namespace.
    ///
    /// # Errors
    /// The kernel's error, with advice.
    pub fn make(&self, resource: &ResourceName) -> Result<SandboxNetwork, Failure> {
        if !matches!(self.uplink, Uplink::Veth) {
            return self.make_in_namespace(resource.as_str());
        }
        let (namespace, inside) = netns::new().map_err(|e| creation_failed(&e))?;
        let near = Netlink::open().map_err(|e| creation_failed(&e))?;
        for _ in 0..SLOTS {
            let slot = 1 + self.next.fetch_add(1, Ordering::Relaxed) % SLOTS;
            match self.network(slot, &near, &inside, &namespace) {
                Ok(address) => {
                    return Ok(SandboxNetwork {
                        slot,
                        address,
                        namespace,
                        pasta: None,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(creation_failed(&error)),
            }
        }
        Err(machine(format!(
            "all {SLOTS} network slots of this machine are taken"
        )))
    }

    fn network(
        &self,
        slot: u32,
        near: &Netlink,
        inside: &Netlink,
        namespace: &OwnedFd,
    ) -> io::Result<Ipv4Addr> {
        let (name, address) = (interface(slot), self.address(slot));
        let (near_mac, far_mac) = (mac(0, slot), mac(1, slot));
        near.send(&Batch::default().link_pair(
            &VethEnd {
                name: &name,
                mac: near_mac,
            },
            self.group,
            &VethEnd {
                name: INSIDE,
                mac: far_mac,
            },
            namespace.as_fd(),
            self.mtu,
        ))?;
        // From here on an error is never "already exists": the name is taken by this sandbox.
        let wired = (|| {
            let near_index = index(near, &name)?;
            let far_index = index(inside, INSIDE)?;
            netns::sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "1");
            netns::sysctl(&format!("ipv4/conf/{name}/rp_filter"), "1");
            netns::sysctl(&format!("ipv4/conf/{name}/send_redirects"), "0");
            netns::sysctl(&format!("ipv4/conf/{name}/accept_redirects"), "0");
            inside.send(
                &Batch::default()
                    .address(far_index, address)
                    .up(far_index)
                    .neighbor(far_index, GATEWAY, near_mac)
                    .route_to(far_index, GATEWAY)
                    .default_route(far_index, GATEWAY),
            )?;
            near.send(
                &Batch::default()
                    .up(near_index)
                    .neighbor(near_index, address, far_mac)
                    .route_to(near_index, address),
            )
        })();
        match wired {
            Ok(()) => Ok(address),
            Err(error) => {
                remove(slot);
                Err(io::Error::other(error))
            }
        }
    }
}

/// The near interface's name.
#[must_use]
pub fn interface(slot: u32) -> String {
    format!("{PREFIX}{slot}")
}

/// Removes the pair at once, although something may still hold the namespace open (a socket of
/// the database proxy, a connection of the gateway). A missing pair is no error.
pub fn remove(slot: u32) {
    if let Ok(netlink) = Netlink::open() {
        // Fails where it is gone already.
        let _ = netlink.send(&Batch::default().remove(&interface(slot)));
    }
}

/// Whether the interface is there.
#[must_use]
pub fn exists(slot: u32) -> bool {
    Netlink::open()
        .and_then(|netlink| netlink.index(&interface(slot)))
        .is_ok_and(|index| index.is_some())
}

fn index(netlink: &Netlink, name: &str) -> io::Result<u32> {
    netlink
        .index(name)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("interface {name} is gone")))
}

/// A locally administered address (second bit), unique by side and slot.
fn mac(side: u8, slot: u32) -> Mac {
    let [_, a, b, c] = slot.to_be_bytes();
    [0x02, 0x66, side, a, b, c]
}

/// The MTU of the interface that the default route uses: a larger one inside would make every
/// big packet wait for an ICMP message that many networks drop.
fn mtu_outward() -> Option<u32> {
    let routes = fs::read_to_string("/proc/net/route").ok()?;
    let device = routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let device = fields.next()?;
        (fields.next()? == "00000000").then_some(device)
    })?;
    let mtu = fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?;
    mtu.trim().parse().ok().filter(|mtu| (576..=65_535).contains(mtu))
}

fn creation_failed(error: &io::Error) -> Failure {
    let advice = match error.raw_os_error() {
        Some(libc::EPERM) => "; the runner needs CAP_NET_ADMIN and CAP_SYS_ADMIN",
        Some(libc::EOPNOTSUPP) => "; the kernel lacks veth interfaces (module veth)",
        Some(libc::ENOSPC) => "; raise the limit user.max_net_namespaces",
        _ => "",
    };
    machine(format!(
        "the sandbox's network could not be created: {error}{advice}"
    ))
}
