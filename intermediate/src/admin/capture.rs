//! Packets as they pass, with the verdict on each.

use super::{Admin, error};
use crate::handoff::Migrator;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use baton_daemon::capture::{CaptureQuery, Place, Records};
use baton_loader::{Plane, monotonic_ns};
use baton_shared::record::{FlowKey, FlowRecord};
use baton_shared::translate::Direction;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

struct OfFlows {
    plane: Arc<Plane>,
    migrator: Arc<Migrator>,
}

impl Records for OfFlows {
    fn lookup(&self, key: &FlowKey) -> Option<u32> {
        self.plane.lookup(key).ok().flatten()
    }

    fn read(&self, slot: u32) -> FlowRecord {
        self.plane.slots().read(slot)
    }

    fn slots_of(&self, ip: IpAddr) -> HashMap<SocketAddr, u32> {
        self.migrator.flows().slots_of(ip)
    }

    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }
}

/// `GET /v1/capture`.
pub(super) async fn capture(
    State(admin): State<Arc<Admin>>,
    query: Result<Query<CaptureQuery>, QueryRejection>,
) -> Response {
    let config = admin.reload.as_ref().map(|reload| reload.in_force());
    let uplink = config.as_ref().and_then(|config| config.uplink.as_ref());
    let (Some(config), Some(uplink), Some(plane), Some(migrator)) =
        (&config, uplink, &admin.plane, admin.front.migration.migrator())
    else {
        return error(StatusCode::CONFLICT, "no listener migrates: there is no data plane to look at");
    };
    let place = Place {
        uplink: uplink.get_ref().clone(),
        tun: config.plane.tun.get_ref().clone(),
        direction: Direction::FromClient,
    };
    let records = OfFlows { plane: Arc::clone(plane), migrator: Arc::clone(migrator) };
    baton_daemon::capture::capture(&place, records, query)
}
