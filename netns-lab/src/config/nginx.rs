//! nginx on a target: the server that knows nothing of Baton.

use crate::plan;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Request headers `/whoami` shows, if the request had them. nginx has no variable for all of them.
const SHOWN_HEADERS: [&str; 28] = [
    "Host",
    "User-Agent",
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "Authorization",
    "Cache-Control",
    "Connection",
    "Content-Length",
    "Content-Type",
    "Cookie",
    "Expect",
    "Forwarded",
    "If-None-Match",
    "Keep-Alive",
    "Range",
    "Referer",
    "Transfer-Encoding",
    "Upgrade",
    "Via",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Request-Id",
    "Traceparent",
    "X-Debug",
    "X-Env",
    "X-Test",
];

/// nginx.conf for a target, which serves the same in the clear and with TLS. `run` is the node's run directory, `www` has the files, `uploads` takes what is PUT.
pub(crate) fn target(name: &str, addresses: &[IpAddr], run: &Path, www: &Path, uploads: &Path) -> String {
    let (run, www, uploads) = (run.display(), www.display(), uploads.display());
    let sink = plan::SINK;
    // A user namespace with one user has none to change to.
    let single = if crate::rootless::has_one_user() { "master_process off;\n" } else { "" };
    let listen = |a: &IpAddr| {
        let (plain, tls) = (SocketAddr::new(*a, 80), SocketAddr::new(*a, 443));
        format!("        listen {plain} backlog=4096;\n        listen {tls} ssl http2 backlog=4096;\n")
    };
    let listens: String = addresses.iter().map(listen).collect();
    let mut maps = String::new();
    let mut lines = String::new();
    for header in SHOWN_HEADERS {
        let variable = header.to_ascii_lowercase().replace('-', "_");
        maps.push_str(&format!(
            "    map $http_{variable} $line_{variable} {{ \"\" \"\"; default \"{header}: $http_{variable}\\n\"; }}\n"
        ));
        lines.push_str(&format!("${{line_{variable}}}"));
    }
    format!(
        r#"# Written by netns-lab: an ordinary nginx, as a target runs it.
daemon off;
{single}user root;
worker_processes 2;
worker_rlimit_nofile 65536;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
events {{ worker_connections 16384; }}
http {{
    default_type application/octet-stream;
    sendfile on;
    # Client's address and port, request, status, bytes of body sent, bytes of request.
    log_format lab '$remote_addr $remote_port "$request" $status $body_bytes_sent $request_length';
    access_log {run}/access.log lab;
    client_body_temp_path {uploads}/.body;
    proxy_temp_path {uploads}/.proxy;
    fastcgi_temp_path {uploads}/.fastcgi;
    uwsgi_temp_path {uploads}/.uwsgi;
    scgi_temp_path {uploads}/.scgi;
{maps}
    server {{
{listens}        server_name {name};
        ssl_certificate {run}/server.pem;
        ssl_certificate_key {run}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        root {www};
        client_max_body_size 2g;
        add_header X-Served-By {name} always;

        # For a page that wants to know who served each of its parts.
        location = /who.js {{
            default_type application/javascript;
            return 200 'who("$host", "{name}", "$args");';
        }}
        location ~ \.html$ {{ default_type text/html; }}
        # The same files in chunks, for who accepts gzip; and an answer without content.
        location /chunked/ {{
            alias {www}/;
            gzip on;
            gzip_comp_level 1;
            gzip_min_length 1;
            gzip_types application/octet-stream;
        }}
        location = /nothing {{ return 204; }}
        location = /whoami {{
            default_type text/plain;
            return 200 "target: {name}\nclient: $remote_addr:$remote_port\nserver: $server_addr:$server_port\nrequest: $request\n\n{lines}";
        }}
        # PUT a file here, GET it back, hash it on the target.
        location /upload/ {{
            root {uploads};
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
        # POST here: the whole body is read, then answered.
        location = /upload {{
            proxy_pass http://{sink};
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }}
        # The same, and the body stays in a file of .body.
        location = /kept {{
            client_body_in_file_only on;
            proxy_pass http://{sink};
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
        }}
    }}
    server {{
        listen {sink};
        access_log off;
        location / {{ return 200 "received\n"; }}
    }}
}}
"#
    )
}
