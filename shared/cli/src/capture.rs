//! `baton capture`: the packets of a client on all hosts, in one pcapng file, each with the verdict on it.

use crate::Done;
use crate::args::CaptureArgs;
use crate::endpoint::{Node, Nodes, escaped, with_query};
use crate::table::{at, number, word};
use anyhow::{Context, Result, anyhow, bail};
use http_body_util::BodyExt;
use hyper::Method;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How much longer than it was asked for a capture may take.
const LATE: Duration = Duration::from_secs(10);

/// A packet as a daemon told of it.
#[derive(Debug)]
struct Packet {
    at_ns: u64,
    /// Host, device, and on which side of the rewrite.
    interface: String,
    length: u32,
    data: Vec<u8>,
    comment: String,
}

/// After an interrupt, for what is on its way from the daemons.
const ON_ITS_WAY: Duration = Duration::from_millis(500);

/// What a daemon says, line by line.
enum Line {
    Begun,
    Packet(Box<Packet>),
    Ended { missed: u64 },
}

pub(crate) async fn run(nodes: &Nodes, as_json: bool, args: &CaptureArgs) -> Done {
    let client = match (&args.which.flow, &args.which.filter) {
        (Some(id), _) => {
            let flow = nodes.intermediate.get(&format!("/v1/flows/{}", escaped(id))).await?;
            word(&flow, "/client").context("the intermediate names no client of this flow")?.to_owned()
        }
        (None, Some(client)) => client.clone(),
        (None, None) => bail!("--flow or --filter"),
    };
    // Before anything is captured: a file that cannot be made is told at once.
    let file = File::create(&args.write).with_context(|| format!("cannot make {}", args.write.display()))?;
    let query = [
        ("client", Some(client.clone())),
        ("seconds", Some(args.seconds.to_string())),
        ("packets", Some(args.packets.to_string())),
        ("snap", Some(args.snap.to_string())),
    ];
    let path = with_query("/v1/capture", &query);
    let (mut packets, missed) = gather(nodes, &path, args, &client).await?;
    packets.sort_by_key(|packet| packet.at_ns);
    let interfaces = write(BufWriter::new(file), &packets)?;
    if as_json {
        let told = serde_json::json!({
            "file": args.write, "client": client, "packets": packets.len(), "missed": missed, "interfaces": interfaces,
        });
        println!("{told}");
    } else {
        println!("{}: {} packets of {client}, {missed} missed", args.write.display(), packets.len());
        for interface in interfaces {
            let count = packets.iter().filter(|packet| packet.interface == interface).count();
            println!("  {count:>6}  {interface}");
        }
    }
    Ok(if packets.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What all daemons capture, until they are done or somebody interrupts.
async fn gather(nodes: &Nodes, path: &str, args: &CaptureArgs, client: &str) -> Result<(Vec<Packet>, u64)> {
    let (tell, mut told) = mpsc::channel(1024);
    let mut begun = Vec::new();
    for node in nodes.all() {
        let (node, path, tell) = (node.clone(), path.to_owned(), tell.clone());
        let (say_begun, is_begun) = oneshot::channel();
        begun.push(is_begun);
        tokio::spawn(async move {
            if let Err(e) = follow(&node, &path, say_begun, &tell).await {
                // Whoever reads may be gone.
                let _ = tell.send(Err(e.context(format!("capture on {}", node.name)))).await;
            }
        });
    }
    drop(tell);
    for begun in begun {
        if begun.await.is_err() {
            // Its own word of why is on its way, behind what others captured by now.
            while let Some(line) = told.recv().await {
                line?;
            }
            bail!("a daemon ended its capture before it began");
        }
    }
    eprintln!(
        "capturing the packets of {client} on {} hosts for {} s, or until Ctrl-C",
        1 + nodes.agents.len(),
        args.seconds
    );
    let (mut packets, mut missed, mut interrupted) = (Vec::new(), 0, false);
    let end = tokio::time::sleep(Duration::from_secs(args.seconds) + LATE);
    tokio::pin!(end);
    loop {
        tokio::select! {
            line = told.recv() => match line {
                Some(Ok(Line::Packet(packet))) => packets.push(*packet),
                Some(Ok(Line::Ended { missed: more })) => missed += more,
                Some(Ok(Line::Begun)) => {}
                Some(Err(e)) => return Err(e),
                None => break,
            },
            _ = tokio::signal::ctrl_c(), if !interrupted => {
                interrupted = true;
                end.as_mut().reset(Instant::now() + ON_ITS_WAY);
            }
            () = &mut end => {
                if interrupted {
                    break;
                }
                bail!("a daemon does not end its capture");
            }
        }
    }
    Ok((packets, missed))
}

async fn follow(
    node: &Node,
    path: &str,
    begun: oneshot::Sender<()>,
    tell: &mpsc::Sender<Result<Line>>,
) -> Result<()> {
    let answer = node.answer(Method::GET, path, LATE).await?;
    let mut begun = Some(begun);
    let mut body = answer.into_body();
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|e| anyhow!("{e}"))?.into_data() else { continue };
        rest.extend_from_slice(&bytes);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let line = parse(&node.name, &line)?;
            if matches!(line, Line::Begun)
                && let Some(begun) = begun.take()
            {
                let _ = begun.send(());
            }
            if tell.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
    }
    if begun.is_some() {
        bail!("it ended before it began");
    }
    Ok(())
}

fn parse(node: &str, line: &[u8]) -> Result<Line> {
    let told: Value = serde_json::from_slice(line).context("a line that is no JSON")?;
    if told.get("begin").is_some() {
        return Ok(Line::Begun);
    }
    if told.get("end").is_some() {
        return Ok(Line::Ended { missed: number(&told, "/end/missed") });
    }
    let interface = match word(&told, "/moment").context("a packet without its moment")? {
        "daemon" => format!("{node} {}", at(&told, "/device")),
        "reconstructed" => format!("{node} {} before the rewrite (reconstructed)", at(&told, "/device")),
        moment => format!("{node} {} {moment} the rewrite", at(&told, "/device")),
    };
    Ok(Line::Packet(Box::new(Packet {
        at_ns: number(&told, "/at_ns"),
        interface,
        length: u32::try_from(number(&told, "/length")).unwrap_or(u32::MAX),
        // Of a packet without a byte they are empty.
        data: bytes(word(&told, "/data").unwrap_or_default()).context("data that is no hexadecimal")?,
        comment: word(&told, "/comment").unwrap_or_default().to_owned(),
    })))
}

/// Out of hexadecimal digits.
fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Writes the file; the names of its interfaces.
fn write(out: impl Write, packets: &[Packet]) -> Result<Vec<String>> {
    let mut interfaces: Vec<String> = packets.iter().map(|packet| packet.interface.clone()).collect();
    interfaces.sort();
    interfaces.dedup();
    let mut writer = PcapNgWriter::new(out)?;
    for interface in &interfaces {
        writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(interface.into()),
                // Times are in nanoseconds (10^-9 s).
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        })?;
    }
    for packet in packets {
        let place = interfaces.iter().position(|interface| *interface == packet.interface).unwrap_or(0);
        writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id: u32::try_from(place)?,
            timestamp: Duration::from_nanos(packet.at_ns),
            original_len: packet.length,
            data: packet.data.as_slice().into(),
            options: vec![EnhancedPacketOption::Comment(packet.comment.as_str().into())],
        })?;
    }
    writer.into_inner().flush()?;
    Ok(interfaces)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::endpoint::tests::{FULL, answering};
    use clap::Parser;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn a_file_has_every_packet_with_its_time_its_interface_and_its_verdict() {
        let line = |moment: &str, at: u64| {
            let line = format!(
                r#"{{"at_ns":{at},"device":"eth0","leaving":true,"moment":"{moment}","length":40,"data":"4500","comment":"c {moment}"}}"#
            );
            match parse("t1", line.as_bytes()).unwrap() {
                Line::Packet(packet) => *packet,
                _ => panic!(),
            }
        };
        let packets =
            [line("reconstructed", 1_700_000_000_123_456_789), line("after", 1_700_000_000_123_456_790)];
        let mut file = Vec::new();
        let names = write(&mut file, &packets).unwrap();
        assert_eq!(names, ["t1 eth0 after the rewrite", "t1 eth0 before the rewrite (reconstructed)"]);
        let mut reader = PcapNgReader::new(file.as_slice()).unwrap();
        let mut read = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap() {
                let comment = format!("{:?}", packet.options);
                read.push((
                    packet.interface_id,
                    packet.timestamp.as_nanos(),
                    packet.data.to_vec(),
                    packet.original_len,
                ));
                assert!(comment.contains("c "), "{comment}");
            }
        }
        let data = || vec![0x45, 0];
        assert_eq!(
            read,
            [(1, 1_700_000_000_123_456_789, data(), 40), (0, 1_700_000_000_123_456_790, data(), 40)]
        );
    }

    #[tokio::test]
    async fn a_daemon_that_refuses_is_told_in_its_own_words_whatever_the_others_do() {
        // The others have begun and have packets before it refuses, and go on.
        let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n22\r\n{\"begin\":{}}\n{\"end\":{\"missed\":0}}\n\r\n";
        let nodes = Nodes {
            intermediate: answering("front", vec![begun]),
            agents: vec![answering("t1", vec![begun]), answering("t2", vec![FULL])],
        };
        let cli = Cli::parse_from(["baton", "capture", "--filter", "10.0.0.1", "-w", "/dev/null"]);
        let Command::Capture(args) = cli.command else { panic!() };
        let error = gather(&nodes, "/v1/capture", &args, "10.0.0.1").await.unwrap_err();
        let said = format!("{error:#}");
        assert_eq!(said, "capture on t2: t2 says 503 Service Unavailable: no place");
    }

    #[test]
    fn lines_that_are_not_as_they_should_be_are_errors() {
        for line in ["", "{", r#"{"moment":"after","data":"4x"}"#, r#"{"data":"45"}"#] {
            assert!(parse("t1", line.as_bytes()).is_err(), "{line}");
        }
        assert!(matches!(parse("t1", br#"{"end":{"missed":3}}"#).unwrap(), Line::Ended { missed: 3 }));
    }
}
