//! Whether an address of this host is reached without leaving the machine: loopback, or a bridge that only containers
//! hang on. What goes there in clear crosses no network.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
};

/// Returns whether whoever reaches this host at `host` is on this machine; in doubt it is not.
pub(super) fn stays_here(host: &str) -> bool {
    match host.parse() {
        Ok(IpAddr::V4(address)) if !address.is_loopback() => {
            let table = fs::read_to_string("/proc/net/route").unwrap_or_default();
            links(&table, address).any(is_bridge_of_containers)
        }
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost",
    }
}

/// Returns the links whose own network `address` is in, from the kernel's table: name, network and mask in hex of the
/// machine's own byte order.
fn links(table: &str, address: Ipv4Addr) -> impl Iterator<Item = &str> {
    let address = u32::from_ne_bytes(address.octets());
    table.lines().skip(1).filter_map(move |line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
        let (network, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        let is_its_own = gateway == 0 && mask != 0 && address & mask == network;
        is_its_own.then(|| words[0])
    })
}

/// A bridge that a network card hangs on leads out of the machine.
fn is_bridge_of_containers(link: &str) -> bool {
    let Ok(members) = fs::read_dir(format!("/sys/class/net/{link}/brif")) else { return false };
    members.flatten().all(|member| member.file_name().to_string_lossy().starts_with("veth"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_here_and_names_are_not() {
        let here = ["127.0.0.1", "127.9.9.9", "::1", "localhost"];
        assert!(here.iter().all(|host| stays_here(host)));
        let elsewhere = ["192.0.2.1", "2001:db8::1", "backup.example", ""];
        assert!(!elsewhere.iter().any(|host| stays_here(host)));
    }

    #[test]
    fn a_link_is_found_by_its_own_network_only() {
        let hex = |octets: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(octets));
        let line = |link: &str, network, gateway, mask| {
            format!("{link}\t{}\t{}\t0001\t0\t0\t0\t{}\t0\t0\t0\n", hex(network), hex(gateway), hex(mask))
        };
        let table = [
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n".to_owned(),
            line("eth0", [0; 4], [192, 0, 2, 1], [0; 4]),
            line("eth0", [10, 0, 0, 0], [192, 0, 2, 1], [255, 0, 0, 0]),
            line("docker0", [172, 17, 0, 0], [0; 4], [255, 255, 0, 0]),
        ]
        .concat();
        let found = |address: [u8; 4]| links(&table, address.into()).collect::<Vec<_>>();
        assert_eq!(found([172, 17, 0, 1]), ["docker0"]);
        assert!(found([10, 1, 1, 1]).is_empty() && found([172, 18, 0, 1]).is_empty());
    }
}
