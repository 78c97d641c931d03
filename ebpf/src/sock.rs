//! The kernel's sockets: looking one up by its 4-tuple, and having one made from a packet. With `skb`, the only raw
//! pointers and helper calls.

use crate::skb::Skb;
use aya_ebpf::bindings::{__sk_buff, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1};
use aya_ebpf::bindings::{
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Tuple4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Tuple6,
};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp, bpf_skc_to_tcp_sock};
use baton_shared::record::FlowKey;
use baton_shared::translate::adopt::{Attributes, NO_LISTENER, TCP_LISTEN};
use core::ffi::c_void;
use core::mem::transmute;
use core::ptr;

/// The network namespace of the packet's device (`BPF_F_CURRENT_NETNS`).
const THIS_NAMESPACE: u64 = u64::MAX;
const EINVAL: i32 = 22;

/// Stands for the kernel function `bpf_sk_assign_tcp_reqsk` in the object: aya relocates no calls of kernel functions,
/// so the loader (`baton_loader::adopt`) looks for a call of this helper, which no kernel has, and makes it the
/// function's.
const ASSIGN: usize = 0x7fff_0001;

/// `int bpf_sk_assign_tcp_reqsk(struct __sk_buff *s, struct sock *sk, struct bpf_tcp_req_attrs *attrs, int attrs__sz)`
type Assign = unsafe extern "C" fn(*mut __sk_buff, *mut c_void, *mut Attributes, i32) -> i32;

/// Looks a socket up as a packet of the key's client to the key's local address would find it. What is found must be
/// released.
#[inline(always)]
fn find(skb: Skb, key: &FlowKey, v4: bool) -> *mut aya_ebpf::bindings::bpf_sock {
    let (sport, dport) = (key.remote_port.0, key.local_port.0);
    if v4 {
        let ipv4 = Tuple4 { saddr: key.remote.v4_word(), daddr: key.local.v4_word(), sport, dport };
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv4 } };
        let size = size_of::<Tuple4>() as u32;
        // SAFETY: a helper call on the context; the tuple is initialised over `size` bytes.
        unsafe { bpf_skc_lookup_tcp(skb.raw().cast(), &raw mut tuple, size, THIS_NAMESPACE, 0) }
    } else {
        let ipv6 = Tuple6 { saddr: key.remote.0, daddr: key.local.0, sport, dport };
        let mut tuple = bpf_sock_tuple { __bindgen_anon_1: bpf_sock_tuple__bindgen_ty_1 { ipv6 } };
        let size = size_of::<Tuple6>() as u32;
        // SAFETY: as above.
        unsafe { bpf_skc_lookup_tcp(skb.raw().cast(), &raw mut tuple, size, THIS_NAMESPACE, 0) }
    }
}

/// The state (`net/tcp_states.h`) of the socket under a key, a connection's or a listening one; 0 for none.
#[inline(always)]
pub(crate) fn state_under(skb: Skb, key: &FlowKey, v4: bool) -> u32 {
    let socket = find(skb, key, v4);
    if socket.is_null() {
        return 0;
    }
    // SAFETY: a socket that was found and not yet released; the verifier turns the access into the kernel's own field.
    unsafe {
        let state = ptr::read_volatile(&raw const (*socket).state);
        bpf_sk_release(socket.cast());
        state
    }
}

/// Has the kernel make a connection's socket from the packet, for whoever listens under `listener`: 0, [`NO_LISTENER`]
/// or a negative errno.
#[inline(always)]
pub(crate) fn assign(skb: Skb, listener: &FlowKey, v4: bool, attributes: &mut Attributes) -> i32 {
    let socket = find(skb, listener, v4);
    if socket.is_null() {
        return NO_LISTENER;
    }
    // SAFETY: as above. The function is the kernel's once the loader has put it in the placeholder's place.
    unsafe {
        let mut code = NO_LISTENER;
        if ptr::read_volatile(&raw const (*socket).state) == TCP_LISTEN {
            let full = bpf_skc_to_tcp_sock(socket.cast());
            code = -EINVAL;
            if !full.is_null() {
                let assign = transmute::<usize, Assign>(ASSIGN);
                code =
                    assign(skb.raw(), full.cast(), ptr::from_mut(attributes), size_of::<Attributes>() as i32);
            }
        }
        bpf_sk_release(socket.cast());
        code
    }
}
