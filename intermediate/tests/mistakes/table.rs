//! The site that is right, and what is changed in it.

use crate::LISTENER;
use baton_tests::mistakes::Mistake;

/// A site that is right. `DIR` is a directory of the test's own, `VIP` a port of it.
pub(crate) const BASE: &str = r#"name = "lb"
[admin]
unix = "DIR/admin.sock"
[limits]
head_timeout_ms = 10000
[[listener]]
name = "web"
vip = "VIP"
mode = "proxy"
pool = "one"
[[target]]
name = "t1"
server = "127.0.0.1:8081"
agent = "127.0.0.1:7400"
[[target]]
name = "t2"
server = "127.0.0.1:8082"
agent = "127.0.0.1:7401"
[[pool]]
name = "one"
targets = ["t1"]
[[pool]]
name = "two"
targets = ["t2"]
[[route]]
name = "api"
host = ["api.example.com"]
path = "/api"
pool = "two"
"#;

pub(crate) const MISTAKES: &[Mistake] = &[
    // Slips of the pen.
    ("name = \"lb\"", "nmae = \"lb\"", "1:1", &["unknown field `nmae`", "did you mean `name`?"]),
    ("vip =", "vpi =", "8:1", &["unknown field `vpi`", "did you mean `vip`?"]),
    ("[[route]]", "[[rout]]", "25:3", &["unknown field `rout`", "did you mean `route`?"]),
    ("path = \"/api\"", "pth = \"/api\"", "28:1", &["unknown field `pth`", "did you mean `path`?"]),
    (
        "head_timeout_ms",
        "head_timeout",
        "5:1",
        &["unknown field `head_timeout`", "did you mean `head_timeout_ms`?"],
    ),
    ("mode = \"proxy\"", "mode = \"poxy\"", "9:8", &["unknown variant `poxy`", "did you mean `proxy`?"]),
    (
        "+",
        "[route.request_headers]\nsett = { A = \"1\" }",
        "31:1",
        &["unknown field `sett`", "did you mean `set`?"],
    ),
    (
        "+",
        "[route.request_headers]\nforwarded = \"x-forward\"",
        "31:13",
        &["unknown variant", "`x-forwarded`?"],
    ),
    ("+", "[acess_log]", "30:2", &["unknown field `acess_log`", "did you mean `access_log`?"]),
    // What TOML and types forbid.
    ("name = \"lb\"", "name = \"lb", "1:11", &["invalid basic string"]),
    ("name = \"lb\"", "name = 5", "1:8", &["invalid type: integer `5`, expected a string"]),
    ("name = \"lb\"", "name = \"lb\"\nname = \"lb\"", "2:1", &["duplicate key", "stands above already"]),
    ("agent = \"127.0.0.1:7400\"", "", "11:1", &["missing field `agent`", "add agent = "]),
    ("head_timeout_ms = 10000", "head_timeout_ms = -1", "5:19", &["invalid value: integer `-1`"]),
    ("targets = [\"t1\"]", "targets = [7]", "21:12", &["expected a target's name, or { target"]),
    (
        "targets = [\"t1\"]",
        "targets = [{ target = \"t1\", wieght = 2 }]",
        "21:29",
        &["did you mean `weight`?"],
    ),
    // Names that lead nowhere, or to two places.
    ("pool = \"two\"", "pool = \"tow\"", "29:8", &["there is no pool \"tow\"", "did you mean \"two\"?"]),
    (
        "pool = \"one\"",
        "pool = \"static\"",
        "10:8",
        &["there is no pool \"static\"", "there is \"one\", \"two\""],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t3\"]",
        "21:12",
        &["there is no target \"t3\"", "there is \"t1\", \"t2\""],
    ),
    (
        "path = \"/api\"",
        "listener = [\"wbe\"]",
        "28:13",
        &["there is no listener \"wbe\"", "did you mean \"web\"?"],
    ),
    ("targets = [\"t1\"]", "targets = []", "20:8", &["pool \"one\" has no targets", "name one or more"]),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\", \"t1\"]",
        "21:18",
        &["\"t1\" is in this pool already", "weight"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [{ target = \"t1\", weight = 0 }]",
        "21:12",
        &["weight must be between 1 and 1000", "is 0"],
    ),
    (
        "+",
        "[[pool]]\nname = \"one\"\ntargets = [\"t2\"]",
        "31:8",
        &["pool \"one\" is listed twice", "differently"],
    ),
    (
        "+",
        "[[target]]\nname = \"t1\"\nserver = \"127.0.0.1:8083\"\nagent = \"127.0.0.1:7409\"",
        "31:8",
        &["target \"t1\" is listed twice", "differently"],
    ),
    (
        "+",
        "[[route]]\nname = \"api\"\npool = \"one\"",
        "31:8",
        &["route \"api\" is listed twice", "differently"],
    ),
    (
        "+",
        "[[listener]]\nname = \"web\"\nvip = \"127.0.0.1:9\"\nmode = \"proxy\"",
        "31:8",
        &["listener \"web\" is listed twice"],
    ),
    ("name = \"lb\"", "name = \"\"", "1:8", &["name must not be empty"]),
    // Addresses.
    (
        "+",
        "[[listener]]\nvip = \"VIP\"\nmode = \"proxy\"",
        "31:7",
        &["is listed twice", "one listener takes all"],
    ),
    ("vip = \"VIP\"", "vip = \"127.0.0.1\"", "8:7", &["invalid socket address", "write ADDRESS:PORT"]),
    ("vip = \"VIP\"", "vip = \"127.0.0.1:0\"", "8:7", &["vip must have a port"]),
    ("vip = \"VIP\"", "vip = \"0.0.0.0:80\"", "8:7", &["vip must be one host's address"]),
    (
        "server = \"127.0.0.1:8082\"",
        "server = \"127.0.0.1:8081\"",
        "17:10",
        &["belongs to another target already"],
    ),
    (
        "server = \"127.0.0.1:8082\"",
        "server = \"VIP\"",
        "17:10",
        &["is a vip: requests would come back here"],
    ),
    ("agent = \"127.0.0.1:7401\"", "agent = \"127.0.0.1:7400\"", "18:9", &["have the same agent_name"]),
    ("server = \"127.0.0.1:8082\"", "", "16:8", &["\"t2\" has neither server nor server6", "give one"]),
    (
        "server = \"127.0.0.1:8082\"",
        "server6 = \"127.0.0.1:8082\"",
        "17:11",
        &["server6 must be an IPv6 address"],
    ),
    ("unix = \"DIR/admin.sock\"", "tcp = \"10.0.0.1:80\"", "3:7", &["must be a loopback address"]),
    ("name = \"lb\"", "name = \"lb\"\nleg_source = [\"10.0.0.0/8\"]", "2:15", &["invalid IP address"]),
    // Rules that cannot be, or never hold.
    ("host = [\"api.example.com\"]", "host = [\"api.example.com:80\"]", "27:9", &["without a port"]),
    ("host = [\"api.example.com\"]", "host = [\"http://api.example.com\"]", "27:9", &["without scheme"]),
    (
        "host = [\"api.example.com\"]",
        "host = [\"api.*.com\"]",
        "27:9",
        &["only as its first label", "*.example.com"],
    ),
    ("path = \"/api\"", "path = \"api\"", "28:8", &["must begin with a slash"]),
    ("path = \"/api\"", "path = \"/x/../api\"", "28:8", &["write \"/api\""]),
    ("path = \"/api\"", "path_exact = \"/api?v=1\"", "28:14", &["without a query"]),
    (
        "path = \"/api\"",
        "path = \"/api\"\npath_exact = \"/api\"",
        "29:14",
        &["one of path, path_exact and path_regex"],
    ),
    ("path = \"/api\"", "path_regex = \"/a(b\"", "28:14", &["path_regex \"/a(b\"", "unclosed group"]),
    ("path = \"/api\"", "path_regex = \"/(a{999}){999}\"", "28:14", &["exceeds size limit"]),
    ("path = \"/api\"", "method = [\"get\"]", "28:11", &["method \"get\" is not \"GET\""]),
    ("path = \"/api\"", "method = [\"GET POST\"]", "28:11", &["is no HTTP method"]),
    ("path = \"/api\"", "header = { \"X Beta\" = \"1\" }", "28:12", &["\"X Beta\" is no name of a header"]),
    ("path = \"/api\"", "alpn = [\"h2\"]", "28:9", &["no listener of this route has protocol"]),
    (
        "+",
        "[[route]]\npath = \"/api/v1\"\nhost = [\"api.example.com\"]\npool = \"one\"",
        "33:8",
        &["never reached", "\"api\" before it", "put it in front"],
    ),
    (
        "+",
        "[[listener]]\nname = \"tls\"\nvip = \"127.0.0.1:9\"\nprotocol = \"tls\"\nmode = \"proxy\"\npool = \"one\"\n[[route]]\nlistener = [\"tls\"]\npath = \"/\"\npool = \"one\"",
        "38:8",
        &["requests are not read on a listener of protocol"],
    ),
    ("path = \"/api\"", "upstream_timeout_ms = 0", "28:23", &["upstream_timeout_ms must be between 1 and"]),
    // Limits of routes and listeners.
    ("path = \"/api\"", "limits = { body_bytes = -1 }", "28:25", &["invalid value: integer `-1`"]),
    (
        "path = \"/api\"",
        "limits = { body_byte = 1 }",
        "28:12",
        &["unknown field `body_byte`", "did you mean `body_bytes`?"],
    ),
    (
        "path = \"/api\"",
        "limits = { head_bytes = 1000 }",
        "28:12",
        &["unknown field `head_bytes`, expected one of `body_bytes`"],
    ),
    (
        "path = \"/api\"",
        "limits = { connect_timeout_ms = 0 }",
        "28:33",
        &["connect_timeout_ms must be between 1 and 3600000, is 0"],
    ),
    (
        "path = \"/api\"",
        "upstream_timeout_ms = 5\nlimits = { upstream_timeout_ms = 5 }",
        "29:34",
        &["upstream_timeout_ms stands in this route, too", "give it once"],
    ),
    (
        "pool = \"one\"",
        "pool = \"one\"\nlimits = { connect_retries = 2000 }",
        "11:30",
        &["connect_retries must be between 0 and 1000"],
    ),
    (
        "head_timeout_ms = 10000\n[[listener]]",
        "head_bytes = 500\nprefetch_bytes = 1000\n[[listener]]\nlimits = { head_bytes = 2000 }",
        "8:25",
        &["head_bytes (2000) must not be over prefetch_bytes (1000)"],
    ),
    (
        "pool = \"one\"",
        "protocol = \"tls\"\npool = \"one\"\nlimits = { connect_retries = 1, body_bytes = 5 }",
        "12:46",
        &["this limit is about requests", "reads none"],
    ),
    (
        "pool = \"one\"",
        "protocol = \"tcp\"\npool = \"one\"\nlimits = { head_timeout_ms = 5 }",
        "12:30",
        &["nothing is read on a listener of protocol \"tcp\"", "silence_ms"],
    ),
    // Changes that would break messages.
    (
        "+",
        "[route.request_headers]\nset = { \"Content-Length\" = \"0\" }",
        "31:9",
        &["Content-Length cannot be changed"],
    ),
    (
        "+",
        "[route.request_headers]\nadd = { X-A = \"1\\r\\nX-B: 2\" }",
        "31:9",
        &["X-A has a control character"],
    ),
    ("+", "[route.request_headers]\nremove = [\"Host\"]", "31:11", &["Host cannot be removed"]),
    (
        "+",
        "[route.request_headers]\nset = { X-A = \"1\", x-a = \"2\" }",
        "31:20",
        &["x-a is set or removed already"],
    ),
    // Limits and times.
    (
        "head_timeout_ms = 10000",
        "source_exempt = [\"10.0.0.0/8\", \"10.0.0.0/33\"]",
        "5:32",
        &["source_exempt: \"10.0.0.0/33\""],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhash = \"source\"",
        "22:8",
        &["hash has a meaning with balance"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nbalance = \"p3c\"",
        "22:11",
        &["unknown variant `p3c`", "did you mean `p2c`?"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhealth = { kind = \"tpc\" }",
        "22:19",
        &["did you mean `tcp`?"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhealth = { kind = \"tcp\", vip = \"127.0.0.1:1\" }",
        "22:32",
        &["vip has a meaning with kind = \"migrate\" only"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhealth = { kind = \"migrate\" }",
        "22:19",
        &["needs a listener of protocol \"http\" and mode \"migrate\"", "check by \"http\" or \"tcp\""],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhealth = { kind = \"migrate\", vip = \"127.0.0.1:1\" }",
        "22:36",
        &["no [[listener]] has the vip 127.0.0.1:1"],
    ),
    (
        "targets = [\"t1\"]",
        "targets = [\"t1\"]\nhealth = { kind = \"migrate\", vip = \"VIP\" }",
        "22:36",
        &["must have protocol \"http\" and mode \"migrate\""],
    ),
    (
        "head_timeout_ms = 10000",
        "header_count = 0",
        "5:16",
        &["header_count must be between 1 and 1000, is 0"],
    ),
    (
        "head_timeout_ms = 10000",
        "head_bytes = 200000\nprefetch_bytes = 1000",
        "5:14",
        &["must not be over prefetch_bytes"],
    ),
    ("+", "[handoff]\nfreeze_ms = 10", "31:13", &["deadline_ms (2000) must not be over freeze_ms (10)"]),
    ("name = \"lb\"", "name = \"lb\"\nworkers = 0", "2:11", &["workers must be from 1 to 256"]),
    (
        "name = \"lb\"",
        "name = \"lb\"\ncpu_latency_us = 1000001",
        "2:18",
        &["cpu_latency_us must be from 0 to 1000000"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ncpu_latency = \"system\"\ncpu_latency_us = 0",
        "3:18",
        &["cpu_latency_us is for processors that are held awake: cpu_latency is \"system\""],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ncpu_latency = \"often\"",
        "2:15",
        &["unknown variant `often`", "`while_busy`, `always`, `system`"],
    ),
    // What does not go together.
    (
        "[[route]]\nname = \"api\"\nhost = [\"api.example.com\"]\npath = \"/api\"\npool = \"two\"",
        "[[route]]\npath = \"/api\"\npool = \"one\"\nkeepalive = \"pinned\"\nlimits = { body_bytes = 5 }",
        "28:13",
        &["route \"route 1\" limits the length of bodies (body_bytes)", "use \"tracked\""],
    ),
    (
        "pool = \"one\"",
        "pool = \"one\"\nkeepalive = \"pinned\"",
        "11:13",
        &["route \"api\" and the listener's own pool differ", "use \"tracked\""],
    ),
    ("path = \"/api\"", "leg = \"ipip\"", "28:1", &["unknown field `leg`"]),
    (
        "mode = \"proxy\"",
        "mode = \"proxy\"\nprotocol = \"https\"",
        "10:12",
        &["needs a [[listener.certificate]]"],
    ),
    (
        "pool = \"one\"",
        "protocol = \"https\"\npool = \"one\"\n[[listener.certificate]]\ncert = \"DIR/none.pem\"\nkey = \"DIR/none.key\"",
        "13:8",
        &["none.pem: no certificate can be read", "No such file"],
    ),
    // Keys that cannot be read, or are not what they should be.
    (LISTENER, "CERT(site.pem, none.key)", "14:7", &["none.key: no private key can be read", "No such file"]),
    (LISTENER, "CERT(site.pem, dir.key)", "14:7", &["dir.key: no private key can be read", "Is a directory"]),
    (
        LISTENER,
        "CERT(site.pem, empty.key)",
        "14:7",
        &["empty.key: no private key can be read", "has no PRIVATE KEY section", "password"],
    ),
    (LISTENER, "CERT(site.pem, broken.key)", "14:7", &["broken.key: no private key can be read", "base64"]),
    (LISTENER, "CERT(site.pem, lb.key)", "14:7", &["does not belong to the certificate", "site.pem"]),
    (LISTENER, "CERT(site.key, site.key)", "13:8", &["site.key: no certificate can be read"]),
    (LISTENER, "CERT(lb.pem, lb.key)", "13:8", &["lb.pem names no host", "subject alternative names"]),
    ("+", "TLS(ca.pem, lb.pem, dir.key)", "33:7", &["dir.key cannot be read", "Is a directory"]),
    ("+", "TLS(ca.pem, lb.pem, none.key)", "33:7", &["none.key cannot be read", "No such file"]),
    ("+", "TLS(ca.pem, lb.pem, empty.key)", "33:7", &["empty.key holds no private key in PEM form"]),
    ("+", "TLS(ca.pem, lb.pem, t1.key)", "33:7", &["t1.key does not fit", "lb.pem"]),
    ("+", "TLS(ca.pem, lb.pem, broken.key)", "33:7", &["broken.key is no PEM file"]),
    ("+", "TLS(none.pem, lb.pem, lb.key)", "31:6", &["none.pem cannot be read"]),
    (
        "+",
        "TLS(ca.pem, t1.pem, t1.key)",
        "32:8",
        &["was made for agent \"t1\", this node is intermediate \"lb\""],
    ),
    ("+", "TLS(site.pem, lb.pem, lb.key)", "32:8", &["lb.pem:"]),
    (
        "pool = \"one\"",
        "pool = \"one\"\n[[listener.certificate]]\ncert = \"/x\"\nkey = \"/y\"",
        "12:8",
        &["only where TLS ends here"],
    ),
    // Files of its own.
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"none.toml\"",
        "2:11",
        &["there is no such file", "a pattern"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"bad-key/*.toml\"",
        "bad-key/a.toml:2:2",
        &["\"limits\" cannot stand in an included file"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"bad-pool/*.toml\"",
        "bad-pool/b.toml:3:8",
        &["there is no pool \"tow\"", "did you mean \"two\"?"],
    ),
    (
        "name = \"lb\"",
        "name = \"lb\"\ninclude = \"bad-syntax/*.toml\"",
        "bad-syntax/a.toml:2:5",
        &["key with no value"],
    ),
];
