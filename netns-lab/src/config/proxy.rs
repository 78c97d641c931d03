//! Plain proxies on the intermediate's node, to compare with.

use crate::spec::LabSpec;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// haproxy.cfg: an HTTP proxy with kept connections to the servers.
pub(crate) fn haproxy(vips: &[SocketAddr], targets: &[(String, Vec<IpAddr>)], spec: &LabSpec) -> String {
    let servers: String =
        servers(targets).map(|(name, address)| format!("    server {name} {address}\n")).collect();
    let deferred = if spec.defer_accept { " defer-accept" } else { "" };
    let reuse = if spec.reuse_always { "always" } else { "safe" };
    let binds: String = vips.iter().map(|vip| format!("    bind {vip}{deferred}\n")).collect();
    format!(
        "# Written by netns-lab.
global
    maxconn 9900
defaults
    mode http
    option forwardfor
    option http-keep-alive
    http-reuse {reuse}
    timeout connect 5s
    timeout client 300s
    timeout server 60s
    timeout http-request 10s
    timeout http-keep-alive 300s
frontend vip
{binds}    default_backend targets
backend targets
    balance roundrobin
{servers}"
    )
}

/// nginx.conf for a proxy: kept connections to the servers, no temporary files.
pub(crate) fn nginx(vips: &[SocketAddr], targets: &[(String, Vec<IpAddr>)], run: &Path) -> String {
    let servers: String =
        servers(targets).map(|(_, address)| format!("        server {address};\n")).collect();
    let listens: String =
        vips.iter().map(|vip| format!("        listen {vip} backlog=4096 reuseport;\n")).collect();
    format!(
        r#"# Written by netns-lab.
daemon off;
user root;
worker_processes auto;
worker_rlimit_nofile 65536;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    client_body_temp_path {run}/tmp-body;
    proxy_temp_path {run}/tmp-proxy;
    fastcgi_temp_path {run}/tmp-fastcgi;
    uwsgi_temp_path {run}/tmp-uwsgi;
    scgi_temp_path {run}/tmp-scgi;
    upstream targets {{
{servers}        keepalive 64;
    }}
    server {{
{listens}        client_max_body_size 2g;
        keepalive_timeout 300s;
        keepalive_requests 1000000;
        location / {{
            proxy_pass http://targets;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_max_temp_file_size 0;
            proxy_request_buffering off;
        }}
    }}
}}
"#,
        run = run.display()
    )
}

/// envoy.json: an HTTP connection manager on the VIP, as many workers as processors, kept connections to the servers.
pub(crate) fn envoy(vips: &[SocketAddr], targets: &[(String, Vec<IpAddr>)]) -> String {
    let address = |at: SocketAddr| json!({ "socket_address": { "address": at.ip().to_string(), "port_value": at.port() } });
    let typed = |kind: &str| format!("type.googleapis.com/envoy.extensions.filters.{kind}");
    let router = json!({ "name": "envoy.filters.http.router",
        "typed_config": { "@type": typed("http.router.v3.Router") } });
    let manager = json!({
        "@type": typed("network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "vip",
        "use_remote_address": true,
        // ab speaks no other.
        "http_protocol_options": { "accept_http_10": true },
        "http_filters": [router],
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "targets", "timeout": "0s" } }] }] },
    });
    let filter = json!({ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager });
    let listener = |(n, vip): (usize, &SocketAddr)| json!({ "name": format!("vip{n}"), "address": address(*vip), "filter_chains": [{ "filters": [filter] }] });
    let endpoint = |(_, at): (&str, SocketAddr)| json!({ "endpoint": { "address": address(at) } });
    let cluster = json!({
        "name": "targets", "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": { "thresholds": [
            { "max_connections": 40000, "max_pending_requests": 40000, "max_requests": 40000 }] },
        "load_assignment": { "cluster_name": "targets",
            "endpoints": [{ "lb_endpoints": servers(targets).map(endpoint).collect::<Vec<_>>() }] },
    });
    let listeners: Vec<_> = vips.iter().enumerate().map(listener).collect();
    let config = json!({ "static_resources": { "listeners": listeners, "clusters": [cluster] } });
    format!("{config:#}\n")
}

/// caddy.json: a reverse proxy on the VIP, without TLS of its own, kept connections to the servers.
pub(crate) fn caddy(vips: &[SocketAddr], targets: &[(String, Vec<IpAddr>)]) -> String {
    let upstreams: Vec<_> = servers(targets).map(|(_, at)| json!({ "dial": at.to_string() })).collect();
    let proxy = json!({
        "handler": "reverse_proxy",
        "upstreams": upstreams,
        "load_balancing": { "selection_policy": { "policy": "round_robin" } },
        "transport": { "protocol": "http", "keep_alive": { "max_idle_conns_per_host": 64 } },
    });
    let listen: Vec<_> = vips.iter().map(|vip| format!("tcp/{vip}")).collect();
    let config = json!({
        "admin": { "disabled": true },
        "logging": { "logs": { "default": { "level": "WARN" } } },
        "apps": { "http": { "servers": { "vip": {
            "listen": listen,
            "automatic_https": { "disable": true },
            "routes": [{ "handle": [proxy] }],
        } } } },
    });
    format!("{config:#}\n")
}

/// Where a proxy reaches the targets: one address each.
fn servers(targets: &[(String, Vec<IpAddr>)]) -> impl Iterator<Item = (&str, SocketAddr)> {
    targets
        .iter()
        .filter_map(|(name, addresses)| Some((name.as_str(), SocketAddr::new(*addresses.first()?, 80))))
}
