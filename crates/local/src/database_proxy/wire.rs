//! Control protocol of the database proxy: a four-byte length, JSON, and with some messages one descriptor
//! (SCM_RIGHTS, unix(7)).

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
};

use fsa_model::{ResourceName, VolumeId};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

/// Protocol version. Increment it for each change that the other side must know, or that running proxies
/// should receive: `fsa serve` replaces a proxy of another version.
pub const VERSION: u32 = 2;

/// Maximum length of a message in bytes; enough for ten thousand bindings.
const MESSAGE_MAX: usize = 2 * 1024 * 1024;
/// Maximum of received descriptors that are not taken yet.
const DESCRIPTORS_MAX: usize = 4;

/// A request to the proxy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "camelCase")]
pub enum Request {
    Hello,
    /// Comes with a listening socket.
    Bind {
        resource: ResourceName,
        volume: VolumeId,
        role: String,
    },
    Unbind {
        resource: ResourceName,
    },
    IsBound {
        resource: ResourceName,
    },
    List,
    /// Answered by one [`Response::Bound`] for each socket, then [`Response::Done`]. After that the proxy
    /// serves its remaining connections, and ends with the last of them.
    HandOver,
    /// Ends the proxy at once.
    End,
}

/// A response of the proxy.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Response {
    Hello {
        version: u32,
        process: u32,
    },
    Done,
    IsBound {
        bound: bool,
    },
    List {
        bindings: Vec<BindingInfo>,
    },
    /// Comes with the binding's socket.
    Bound(BindingInfo),
    Refused {
        message: String,
    },
}

/// A binding, for listings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BindingInfo {
    pub resource: ResourceName,
    /// The volume whose database server is used. A proxy of an earlier release names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    pub role: String,
    /// The current number of authorized connections.
    pub connections: usize,
}

/// One end of a control connection.
pub struct Channel {
    stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            bytes: Vec::new(),
            descriptors: VecDeque::new(),
        }
    }

    /// The descriptor that came with the message just received.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    pub async fn send(
        &mut self,
        message: &(impl Serialize + Sync),
        descriptor: Option<&OwnedFd>,
    ) -> io::Result<()> {
        let body = serde_json::to_vec(message)?;
        let length = u32::try_from(body.len()).map_err(|_| too_long())?;
        let bytes = [&length.to_be_bytes()[..], &body].concat();
        let mut sent = 0;
        while sent < bytes.len() {
            let stream = &self.stream;
            sent += stream
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut beside = SendAncillaryBuffer::new(&mut space);
                    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
                    if let (0, Some(descriptors)) = (sent, &descriptors) {
                        beside.push(SendAncillaryMessage::ScmRights(descriptors));
                    }
                    let data = [IoSlice::new(&bytes[sent..])];
                    rustix::net::sendmsg(stream, &data, &mut beside, SendFlags::NOSIGNAL)
                        .map_err(io::Error::from)
                })
                .await?;
        }
        Ok(())
    }

    /// Returns the next message, or nothing at the end of the connection.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some((length, rest)) = self.bytes.split_first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MESSAGE_MAX {
                    return Err(too_long());
                }
                if let Some(body) = rest.get(..length) {
                    let message = serde_json::from_slice(body)?;
                    self.bytes.drain(..4 + length);
                    return Ok(Some(message));
                }
            }
            if self.fill().await? == 0 {
                return if self.bytes.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        let mut buffer = [0; 16 * 1024];
        let stream = &self.stream;
        let descriptors = &mut self.descriptors;
        let read = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut beside = RecvAncillaryBuffer::new(&mut space);
                let mut data = [IoSliceMut::new(&mut buffer)];
                let received = rustix::net::recvmsg(stream, &mut data, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
                for message in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        descriptors.extend(received);
                    }
                }
                Ok(received.bytes)
            })
            .await?;
        if self.descriptors.len() > DESCRIPTORS_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "unexpected descriptors",
            ));
        }
        self.bytes.extend(&buffer[..read]);
        Ok(read)
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a message is too long")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_of_version_1_has_no_volume() {
        let text = r#"{"answer":"bound","resource":"app-agentruntime-2k3b4c","role":"r","connections":2}"#;
        let Response::Bound(binding) = serde_json::from_str(text).unwrap() else {
            panic!()
        };
        assert_eq!((binding.volume, binding.connections), (None, 2));
    }

    #[test]
    fn the_messages_of_version_2_do_not_change() {
        let resource: ResourceName = "app-agentruntime-2k3b4c".parse().unwrap();
        let volume = VolumeId::generate();
        let to_json = |value: serde_json::Result<serde_json::Value>| value.unwrap();
        assert_eq!(
            to_json(serde_json::to_value(Request::HandOver)),
            json!({"ask": "handOver"})
        );
        assert_eq!(
            to_json(serde_json::to_value(Request::Bind {
                resource: resource.clone(),
                volume,
                role: "r".into()
            })),
            json!({"ask": "bind", "resource": resource, "volume": volume, "role": "r"})
        );
        assert_eq!(
            to_json(serde_json::to_value(Response::IsBound { bound: true })),
            json!({"answer": "isBound", "bound": true})
        );
        assert_eq!(
            to_json(serde_json::to_value(Response::Bound(BindingInfo {
                resource: resource.clone(),
                volume: Some(volume),
                role: "r".into(),
                connections: 2
            }))),
            json!({"answer": "bound", "resource": resource, "volume": volume, "role": "r", "connections": 2})
        );
    }
}
