//! Reasons that only the daemons count, no program.

reasons! {
    /// Why a control channel ended or did not come up.
    ControlFault {
        Connect = 0, "connect", "The agent's port did not answer: TCP could not connect.";
        Timeout = 1, "timeout", "The TLS handshake or the first message took too long.";
        Untrusted = 2, "untrusted", "The peer's certificate is not signed by this node's authority.";
        Expired = 3, "expired", "The peer's certificate has expired or is not valid yet.";
        Handshake = 4, "handshake", "The peer refused this node's certificate, or TLS failed otherwise.";
        WrongRole = 5, "wrong_role", "The peer's certificate is of another role (an agent's where an intermediate's is needed), or names no node.";
        WrongName = 6, "wrong_name", "The peer's certificate names another node than the configuration or its own first message.";
        NotAllowed = 7, "not_allowed", "An intermediate that no [[allow]] of the agent's configuration names.";
        Version = 8, "version", "The peer speaks another version of the protocol.";
        Protocol = 9, "protocol", "Bytes that are not the protocol.";
        Silent = 10, "silent", "Nothing was heard for too long on an established channel.";
        ClosedEarly = 11, "closed_early", "The peer closed before its first message.";
        Closed = 12, "closed", "An established channel was closed or broke.";
    }
}

reasons! {
    /// Why a packet that came to the hold queue was dropped.
    HoldDrop {
        Full = 1, "full", "A limit of the hold queue was reached (limits.hold_bytes, limits.hold_bytes_per_flow); the client sends the packet again.";
        Malformed = 2, "malformed", "A diverted packet whose headers the daemon cannot read.";
        WriteFailed = 3, "write_failed", "A held packet could not be written back into the TUN; the client sends it again.";
        SaidAgain = 4, "said_again", "An acknowledgement that was held, and the packet held behind it says all that it said: nothing is lost.";
    }
}
