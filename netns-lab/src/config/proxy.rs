//! Plain proxies on the intermediate's node, to compare with.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// haproxy.cfg: an HTTP proxy with kept connections to the servers.
pub(crate) fn haproxy(vips: &[SocketAddr], targets: &[(String, Vec<IpAddr>)]) -> String {
    let servers: String =
        servers(targets).map(|(name, address)| format!("    server {name} {address}\n")).collect();
    let binds: String = vips.iter().map(|vip| format!("    bind {vip}\n")).collect();
    format!(
        "# Written by netns-lab.
global
    maxconn 8000
defaults
    mode http
    option forwardfor
    option http-keep-alive
    http-reuse safe
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-request 10s
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

/// Where a proxy reaches the targets: one address each.
fn servers(targets: &[(String, Vec<IpAddr>)]) -> impl Iterator<Item = (&str, SocketAddr)> {
    targets
        .iter()
        .filter_map(|(name, addresses)| Some((name.as_str(), SocketAddr::new(*addresses.first()?, 80))))
}
