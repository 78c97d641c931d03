//! The host's own counts of connections it could not queue (`/proc/net/netstat`).

/// `TcpExtListenOverflows` of this network namespace, since the host's start; `None` if the kernel does not tell.
pub(super) fn listen_overflows() -> Option<u64> {
    counter(&std::fs::read_to_string("/proc/thread-self/net/netstat").ok()?, "TcpExt:", "ListenOverflows")
}

/// The file has pairs of lines, names and numbers, each beginning with the group's name.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let (names, numbers) = (lines.next()?, lines.next()?);
    let (_, number) = names.split_whitespace().zip(numbers.split_whitespace()).find(|(n, _)| *n == name)?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_tells_it() {
        assert!(listen_overflows().is_some());
    }

    #[test]
    fn a_counter_is_found_by_group_and_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows\nTcpExt: 5 7\nIpExt: ListenOverflows\nIpExt: 9\n";
        assert_eq!(counter(text, "TcpExt:", "ListenOverflows"), Some(7));
        assert_eq!(counter(text, "IpExt:", "ListenOverflows"), Some(9));
        assert_eq!(counter(text, "TcpExt:", "Nothing"), None);
        assert_eq!(counter("TcpExt: A", "TcpExt:", "A"), None);
    }
}
