//! Processes of this machine, read from /proc, and the limit of open files.

use std::fs;
use std::net::SocketAddr;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files as far as this user may, and returns the maximum. Child processes inherit
/// it. If the limit cannot be raised, opening sockets fails later with an error of its own.
pub fn raise_open_files() -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    maximum.unwrap_or(u64::MAX)
}

/// The id of the process that listens on an address. `None` if no process of this machine listens there, or
/// if it belongs to another user and this process does not run as root.
pub fn listening_pid(address: SocketAddr) -> Option<u32> {
    let inode = listening_inode(address)?;
    let wanted = format!("socket:[{inode}]");
    let mut pids =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.find(|pid| has_open(*pid, &wanted))
}

/// The inode of the listening socket, from the kernel's tables. A socket that listens on every address is
/// used only if none listens on this very address.
fn listening_inode(address: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    let mut on_any_address = None;
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (Some(local), Some(&LISTEN), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9))
            else {
                continue;
            };
            let Some((ip, port)) = local.split_once(':') else { continue };
            if u16::from_str_radix(port, 16) != Ok(address.port()) {
                continue;
            }
            if ip == kernel_hex(address) {
                return inode.parse().ok();
            }
            if ip.bytes().all(|digit| digit == b'0') {
                on_any_address = inode.parse().ok();
            }
        }
    }
    on_any_address
}

/// The address as the kernel prints it: words of 32 bits in the machine's own byte order.
fn kernel_hex(address: SocketAddr) -> String {
    let octets = match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    words.map(|word| format!("{word:08X}")).collect()
}

/// Whether a process has a file open, by the target of the link in /proc.
fn has_open(pid: u32, target: &str) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|link| link.as_os_str() == target))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_process_is_found_by_its_port() {
        for address in ["127.0.0.1:0", "0.0.0.0:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let pid = listening_pid(SocketAddr::from(([127, 0, 0, 1], port)));
            assert_eq!(pid, Some(std::process::id()));
        }
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(listening_pid(free).is_none());
    }
}
