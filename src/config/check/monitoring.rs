//! `[monitoring]`: where the daemon tells how it is.

use std::net::{Ipv4Addr, SocketAddr};

use crate::config::{
    raw::{At, Table},
    settings::MonitoringSettings,
};

/// A number that no registered service of IANA's list and no well-known Prometheus exporter uses.
const PORT: u16 = 9847;

/// What stands in the place of an address if nothing is to be served.
const OFF: &str = "off";

pub(super) fn monitoring(mut table: Table<'_, '_>) -> MonitoringSettings {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let given = table.text("listen");
    let listen_given = given.is_some();
    let listen = given.map_or(Some(usual), |text| listen(&mut table, &text));
    let settings = MonitoringSettings {
        listen,
        listen_given,
        status_page_names: table.flag("status_page_names", false),
    };
    table.close();
    settings
}

fn listen(table: &mut Table<'_, '_>, text: &At<String>) -> Option<SocketAddr> {
    if text.value == OFF {
        return None;
    }
    match text.value.parse::<SocketAddr>() {
        Ok(address) => {
            if !address.ip().is_loopback() {
                table.find(text.at.warning(
                    "whoever reaches this address can read, without a password, how the service is and who has trouble",
                    "Listen on 127.0.0.1 or [::1] and put a proxy with a password before it, or keep others off with a \
                     firewall.",
                ));
            }
            Some(address)
        }
        Err(_) => {
            table.find(text.at.error(
                "this is not an address to listen on",
                format!(
                    "Write an IP address and a port, such as \"127.0.0.1:{PORT}\" or \"[::1]:{PORT}\", or \"{OFF}\" if \
                     nothing is to be served."
                ),
            ));
            None
        }
    }
}
