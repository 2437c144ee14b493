//! A name server whose responses the test decides.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// The response to a query.
pub(crate) enum Reply {
    /// These addresses, of which those of the requested family are returned, with a time to live of zero.
    Addresses(Vec<IpAddr>),
    /// These addresses. Queries about IPv6 get no response.
    WithoutIpv6(Vec<IpAddr>),
    /// These addresses. Queries about IPv6 get this code.
    FailingForIpv6(ResponseCode, Vec<IpAddr>),
    /// The name is an alias of the first of these, which is an alias of the second, and so on. The last one has these
    /// addresses.
    Alias(Vec<&'static str>, Vec<IpAddr>),
    /// There is no such name.
    Unknown,
    /// The name server fails with this code.
    Failure(ResponseCode),
    /// No response.
    Silence,
}

/// A name server that runs until it is dropped.
pub(crate) struct NameServer {
    pub(crate) address: SocketAddr,
    answering: JoinHandle<()>,
}

impl NameServer {
    /// Responds with the result of `answer`, which gets the name and how often its IPv4 addresses were asked for
    /// before.
    pub(crate) async fn start(answer: impl Fn(&str, usize) -> Reply + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let answering = tokio::spawn(async move {
            let mut looks = std::collections::HashMap::<String, usize>::new();
            let mut buffer = [0; 1500];
            loop {
                let (length, client) = socket.recv_from(&mut buffer).await.expect("a question");
                let question = Message::from_vec(&buffer[..length]).expect("a question");
                let query = &question.queries[0];
                let name = query.name().to_string().trim_end_matches('.').to_owned();
                let count = looks.entry(name.clone()).or_default();
                let reply = answer(&name, *count);
                *count += usize::from(query.query_type() == RecordType::A);
                if let Some(message) = answer_to(question.clone(), reply) {
                    socket.send_to(&message.to_vec().expect("a message"), client).await.expect("sent");
                }
            }
        });
        Self { address, answering }
    }
}

fn answer_to(question: Message, reply: Reply) -> Option<Message> {
    let query = question.queries[0].clone();
    let mut message = question.into_response();
    // The options of the client are not echoed.
    message.edns = None;
    let mut owner = query.name().clone();
    let addresses = match reply {
        Reply::WithoutIpv6(_) if query.query_type() == RecordType::AAAA => return None,
        Reply::FailingForIpv6(code, _) if query.query_type() == RecordType::AAAA => {
            message.metadata.response_code = code;
            Vec::new()
        }
        Reply::Addresses(addresses) | Reply::WithoutIpv6(addresses) | Reply::FailingForIpv6(_, addresses) => {
            addresses
        }
        Reply::Alias(names, addresses) => {
            for name in names {
                let target = Name::from_ascii(format!("{name}.")).expect("a name");
                let alias = RData::CNAME(CNAME(target.clone()));
                message.add_answer(Record::from_rdata(owner, 0, alias));
                owner = target;
            }
            addresses
        }
        Reply::Failure(code) => {
            message.metadata.response_code = code;
            Vec::new()
        }
        Reply::Unknown => {
            message.metadata.response_code = ResponseCode::NXDomain;
            Vec::new()
        }
        Reply::Silence => return None,
    };
    let is_wanted = |address: &IpAddr| match query.query_type() {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    for address in addresses.into_iter().filter(is_wanted) {
        message.add_answer(Record::from_rdata(owner.clone(), 0, RData::from(address)));
    }
    Some(message)
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.answering.abort();
    }
}
