//! Windows: what no safe wrapper offers.
#![expect(
    unsafe_code,
    reason = "WSAIoctl and GetAdaptersAddresses have no safe wrapper among our dependencies"
)]

use std::io;
use std::os::windows::io::AsRawSocket;
use std::ptr;

use windows_sys::Win32::Foundation::{ERROR_BUFFER_OVERFLOW, ERROR_SUCCESS};
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GAA_FLAG_SKIP_ANYCAST, GAA_FLAG_SKIP_DNS_SERVER, GAA_FLAG_SKIP_MULTICAST, GetAdaptersAddresses,
    IF_TYPE_IEEE80211, IP_ADAPTER_ADDRESSES_LH,
};
use windows_sys::Win32::Networking::WinSock::{
    AF_UNSPEC, SIO_UDP_CONNRESET, SIO_UDP_NETRESET, SOCKET, WSAIoctl,
};

/// Asks Windows not to answer a receive with the fate of an earlier send: a NACK to a source that is gone would else
/// look like a broken socket. Systems that do not know the wish are left as they are; the receive loop counts and skips
/// such answers anyway.
pub(super) fn ignore_resets(socket: &socket2::Socket) {
    let Ok(handle) = SOCKET::try_from(socket.as_raw_socket()) else {
        return;
    };
    for code in [SIO_UDP_CONNRESET, SIO_UDP_NETRESET] {
        let off: u32 = 0;
        let mut returned: u32 = 0;
        // SAFETY: the input pointer and length describe `off`; there is no output buffer; no overlapped structure is
        // given, so the call is over when it returns.
        unsafe {
            let input = ptr::from_ref(&off).cast();
            WSAIoctl(
                handle,
                code,
                input,
                4,
                ptr::null_mut(),
                0,
                &raw mut returned,
                ptr::null_mut(),
                None,
            );
        }
    }
}

/// What Windows knows about a card beyond what `if-addrs` hands on.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) index: u32,
    /// The driver's name for it. A VPN's connection is often called plain "Ethernet 3"; its driver is not.
    pub(super) description: String,
    pub(super) is_wireless: bool,
}

/// Tries at growing the buffer; the list can only outgrow it if cards are added meanwhile.
const ATTEMPTS: usize = 4;

pub(super) fn adapters() -> io::Result<Vec<Adapter>> {
    let flags = GAA_FLAG_SKIP_ANYCAST | GAA_FLAG_SKIP_MULTICAST | GAA_FLAG_SKIP_DNS_SERVER;
    let mut size: u32 = 15_000; // What Microsoft recommends to start with.
    for _ in 0..ATTEMPTS {
        // u64 elements give the alignment the structures need.
        let mut buffer = vec![0_u64; (size as usize).div_ceil(8)];
        let first: *mut IP_ADAPTER_ADDRESSES_LH = buffer.as_mut_ptr().cast();
        // SAFETY: `first` points to `size` writable bytes, aligned for the structure.
        let code = unsafe {
            GetAdaptersAddresses(
                u32::from(AF_UNSPEC),
                flags,
                ptr::null(),
                first,
                &raw mut size,
            )
        };
        match code {
            // SAFETY: the call succeeded, so `first` heads a list within `buffer`, which is alive until the end of
            // this block.
            ERROR_SUCCESS => return Ok(unsafe { read_list(first) }),
            ERROR_BUFFER_OVERFLOW => {}
            code => {
                return Err(io::Error::from_raw_os_error(
                    i32::try_from(code).unwrap_or(i32::MAX),
                ));
            }
        }
    }
    Err(io::Error::other(
        "the list of network adapters keeps growing",
    ))
}

/// # Safety
/// `next` must be null or head a list that `GetAdaptersAddresses` filled in and that is still alive.
unsafe fn read_list(mut next: *const IP_ADAPTER_ADDRESSES_LH) -> Vec<Adapter> {
    let mut adapters = Vec::new();
    // SAFETY: by the caller's promise each pointer of the list is null or valid.
    while let Some(adapter) = unsafe { next.as_ref() } {
        // SAFETY: this arm of the union is the one documented; any bytes are a valid index.
        let v4_index = unsafe { adapter.Anonymous1.Anonymous.IfIndex };
        adapters.push(Adapter {
            // A card without IPv4 has only the other one; where both are, they are equal.
            index: if v4_index == 0 {
                adapter.Ipv6IfIndex
            } else {
                v4_index
            },
            // SAFETY: null or a terminated string in the same buffer.
            description: unsafe { wide_to_string(adapter.Description) },
            is_wireless: adapter.IfType == IF_TYPE_IEEE80211,
        });
        next = adapter.Next;
    }
    adapters
}

/// # Safety
/// `text` must be null or point to UTF-16 that ends with a zero.
unsafe fn wide_to_string(text: *const u16) -> String {
    if text.is_null() {
        return String::new();
    }
    let mut length = 0;
    // SAFETY: by the caller's promise there is a zero, and nothing behind it is read.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    // SAFETY: `length` characters before the zero were just read.
    String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, length) })
}
