//! Plain proxies on the intermediate's node, to compare with.

use crate::plan;
use std::net::Ipv4Addr;
use std::path::Path;

/// haproxy.cfg: an HTTP proxy with kept connections to the servers.
pub(crate) fn haproxy(targets: &[(String, Ipv4Addr)]) -> String {
    let servers: String =
        targets.iter().map(|(name, address)| format!("    server {name} {address}:80\n")).collect();
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
    bind {vip}
    default_backend targets
backend targets
    balance roundrobin
{servers}",
        vip = plan::VIP
    )
}

/// nginx.conf for a proxy: kept connections to the servers, no temporary files.
pub(crate) fn nginx(targets: &[(String, Ipv4Addr)], run: &Path) -> String {
    let servers: String =
        targets.iter().map(|(_, address)| format!("        server {address}:80;\n")).collect();
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
        listen {vip} backlog=4096 reuseport;
        client_max_body_size 2g;
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
        run = run.display(),
        vip = plan::VIP
    )
}
