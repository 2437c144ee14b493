use proptest::prelude::*;

use super::*;

fn passes(address: &str) -> bool {
    AddressGuard::default().check(address.parse().expect("an address")).is_ok()
}

#[test]
fn public_addresses_pass() {
    for address in ["1.1.1.1", "8.8.8.8", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
        assert!(passes(address), "{address}");
    }
}

#[test]
fn all_others_are_refused() {
    for address in [
        "0.0.0.0",
        "127.0.0.1",
        "127.255.255.254",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.51.100.7",
        "203.0.113.9",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2001:db8::1",
        "2001::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "3fff::1",
        "100::1",
        "5f00::1",
    ] {
        assert!(!passes(address), "{address}");
    }
}

#[test]
fn literals_are_found_however_they_are_written() {
    let guard = AddressGuard::default();
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
    ] {
        let url = url::Url::parse(&format!("http://{host}/")).expect(host);
        assert!(guard.check_host(&url).is_err(), "{host}");
    }
    let name = url::Url::parse("http://example.com/").expect("a URL");
    assert!(guard.check_host(&name).is_ok());
}

#[test]
fn an_allowed_network_passes_in_every_form() {
    let guard = AddressGuard::new(vec!["127.0.0.1/32".parse().expect("a network")]);
    let check = |address: &str| guard.check(address.parse().expect("an address")).is_ok();
    assert!(check("127.0.0.1"));
    assert!(check("::ffff:127.0.0.1"));
    assert!(!check("127.0.0.2"));
    assert!(!check("::1"));
}

/// The first and last addresses of the refused IPv4 networks, according to the registries.
const REFUSED: [(&str, &str); 19] = [
    ("0.0.0.0", "0.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("100.64.0.0", "100.127.255.255"),
    ("127.0.0.0", "127.255.255.255"),
    ("168.63.129.16", "168.63.129.16"),
    ("169.254.0.0", "169.254.255.255"),
    ("172.16.0.0", "172.31.255.255"),
    ("192.0.0.0", "192.0.0.255"),
    ("192.0.2.0", "192.0.2.255"),
    ("192.31.196.0", "192.31.196.255"),
    ("192.52.193.0", "192.52.193.255"),
    ("192.88.99.0", "192.88.99.255"),
    ("192.168.0.0", "192.168.255.255"),
    ("192.175.48.0", "192.175.48.255"),
    ("198.18.0.0", "198.19.255.255"),
    ("198.51.100.0", "198.51.100.255"),
    ("203.0.113.0", "203.0.113.255"),
    ("224.0.0.0", "239.255.255.255"),
    ("240.0.0.0", "255.255.255.255"),
];

/// The public IPv6 addresses: the gaps between the refused parts of 2000::/3.
const PUBLIC_V6: [(&str, &str); 5] = [
    ("2000::", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2003::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("3fff:1000::", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

fn bounds<N: std::str::FromStr<Err: std::fmt::Debug>>((first, last): (&str, &str)) -> (N, N) {
    (first.parse().expect("an address"), last.parse().expect("an address"))
}

/// Any address, often one at the edge of a network.
fn v4() -> impl Strategy<Value = Ipv4Addr> {
    let edge = (proptest::sample::select(REFUSED.to_vec()), any::<bool>(), 0..3u32).prop_map(
        |(network, is_last, by)| {
            let (first, last): (Ipv4Addr, Ipv4Addr) = bounds(network);
            let edge = u32::from(if is_last { last } else { first });
            Ipv4Addr::from(edge.wrapping_add(by).wrapping_sub(1))
        },
    );
    prop_oneof![any::<u32>().prop_map(Ipv4Addr::from), edge]
}

/// Any address except those that embed IPv4, often one at the edge of a network.
fn v6() -> impl Strategy<Value = Ipv6Addr> {
    let edge = (proptest::sample::select(PUBLIC_V6.to_vec()), any::<bool>(), 0..3u128).prop_map(
        |(network, is_last, by)| {
            let (first, last): (Ipv6Addr, Ipv6Addr) = bounds(network);
            let edge = u128::from(if is_last { last } else { first });
            Ipv6Addr::from(edge.wrapping_add(by).wrapping_sub(1))
        },
    );
    prop_oneof![any::<u128>().prop_map(Ipv6Addr::from), edge]
        .prop_filter("IPv4", |address| address.to_ipv4_mapped().is_none() && address.segments()[0] != 0x64)
}

proptest! {
    // Enough cases to reach every edge.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn an_ipv4_address_is_refused_exactly_where_the_registries_say(address in v4()) {
        let is_refused = REFUSED.iter().any(|network| {
            let (first, last) = bounds::<Ipv4Addr>(*network);
            (first..=last).contains(&address)
        });
        prop_assert_eq!(AddressGuard::default().check(address.into()).is_err(), is_refused);
    }

    #[test]
    fn an_ipv6_address_passes_exactly_where_servers_of_the_public_are(address in v6()) {
        let is_public = PUBLIC_V6.iter().any(|network| {
            let (first, last) = bounds::<Ipv6Addr>(*network);
            (first..=last).contains(&address)
        });
        prop_assert_eq!(AddressGuard::default().check(address.into()).is_ok(), is_public);
    }

    /// An IPv4 address and all its IPv6 forms are judged alike.
    #[test]
    fn embedded_addresses_are_judged_as_what_they_stand_for(v4 in v4()) {
        let guard = AddressGuard::default();
        let plain = guard.check(v4.into()).is_ok();
        let [a, b, c, d] = v4.octets().map(u16::from);
        let nat64 = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, a << 8 | b, c << 8 | d);
        prop_assert_eq!(guard.check(v4.to_ipv6_mapped().into()).is_ok(), plain);
        prop_assert_eq!(guard.check(nat64.into()).is_ok(), plain);
    }
}
