//! Registrations.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use roster_storage::names::{Incarnation, Revision};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Client;
use super::call::{Call, path};
use super::error::{Error, Outcome};
use super::patience::Limits;

/// What an instance says of itself. The limits are the API's: a node refuses what is over them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Registration {
    /// Where it listens; any text of at most 1,024 bytes, as the next four are.
    pub ip: String,
    /// Where it listens; 0 for none.
    pub port: u16,
    /// The machine that it runs on.
    pub hostname: String,
    /// Its own version.
    pub version: String,
    /// Where it is, such as a data centre.
    pub zone: String,
    /// 1 to 1,024; 1, if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Keys and values together at most 16 KiB.
    pub metadata: BTreeMap<String, String>,
    /// At most 64 KiB that Roster only passes on.
    #[serde(serialize_with = "as_base64")]
    pub payload: Vec<u8>,
    /// How long it stays without a heartbeat, in whole milliseconds: 1 s to 24 h; the app's
    /// default, if not given. Not together with a session.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub ttl: Option<Duration>,
    /// The session that it hangs off; one of its own, if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Replace a live instance of the same id at once. Such a registration is not sent again after
    /// an unknown outcome: each one is a new life.
    #[serde(skip)]
    pub takeover: bool,
    /// Refuse with `unknown-app` instead of making the app.
    #[serde(skip)]
    pub only_in_known_app: bool,
}

fn as_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&base64::display::Base64Display::new(bytes, &STANDARD))
}

fn as_text<S: Serializer>(span: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => serializer.collect_str(&format_args!("{}ms", span.as_millis())),
        None => serializer.serialize_none(),
    }
}

pub(super) fn span<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(serde::de::Error::custom)
}

/// The answer to a registration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Registered {
    /// Its app.
    pub app: String,
    /// Its id.
    pub id: String,
    /// This life of the instance.
    pub incarnation: Incarnation,
    /// The session that it hangs off.
    pub session: String,
    /// It is removed when nothing was heard for so long.
    #[serde(deserialize_with = "span")]
    pub ttl: Duration,
    /// A third of that: how often to be heard.
    #[serde(deserialize_with = "span")]
    pub heartbeat_every: Duration,
    /// What the answer is based on.
    pub revision: Revision,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Renewed {
    #[serde(deserialize_with = "span")]
    pub ttl: Duration,
    #[serde(deserialize_with = "span")]
    pub heartbeat_every: Duration,
    /// By app, the newest epoch of its ring that all have adopted; only if the heartbeat told what
    /// this instance has adopted.
    #[serde(default)]
    pub settled: BTreeMap<String, Revision>,
}

fn instance(app: &str, id: &str) -> Result<String, Error> {
    path(&["v1", "apps", app, "instances", id])
}

fn registering(app: &str, id: &str, registration: &Registration) -> Result<Call, Error> {
    let mut call = Call::put(instance(app, id)?).json(registration)?;
    if registration.takeover {
        call = call.query("takeover", true).not_repeatable();
    }
    if registration.only_in_known_app {
        call = call.query("create_app", false);
    }
    Ok(call)
}

impl Client {
    /// Registers an instance, or updates it if it is live. It is removed when no heartbeat comes:
    /// [`Client::keep_alive`] registers and sends them.
    ///
    /// # Errors
    /// See [`Client::send`].
    pub async fn register(
        &self,
        app: &str,
        id: &str,
        registration: &Registration,
    ) -> Result<Registered, Error> {
        self.send(registering(app, id, registration)?).await?.json()
    }

    /// Registers an instance unless there is one: `instance-exists`.
    pub(super) async fn register_if_absent(
        &self,
        app: &str,
        id: &str,
        registration: &Registration,
    ) -> Result<Registered, Error> {
        self.send(registering(app, id, registration)?.if_absent()).await?.json()
    }

    /// Removes an instance; with `incarnation` only this life of it, and never a successor.
    ///
    /// # Errors
    /// See [`Client::send`]. That it is not there is an error only if no earlier try of this very
    /// call may have removed it.
    pub async fn deregister(
        &self,
        app: &str,
        id: &str,
        incarnation: Option<Incarnation>,
    ) -> Result<(), Error> {
        let mut call = Call::delete(instance(app, id)?);
        if let Some(incarnation) = incarnation {
            call = call.query("incarnation", incarnation);
        }
        match self.send(call).await {
            Ok(_) => Ok(()),
            Err(error) if error.code() == "unknown-instance" => match error.outcome() {
                Outcome::Nothing => Err(error),
                Outcome::Unknown => Ok(()),
            },
            Err(error) => Err(error),
        }
    }

    /// `adopted` is an epoch of the ring of its app, 0 if it has adopted none.
    pub(super) async fn heartbeat(
        &self,
        registered: &Registered,
        adopted: Revision,
        limits: Limits,
    ) -> Result<Renewed, Error> {
        let path =
            path(&["v1", "apps", &registered.app, "instances", &registered.id, "heartbeat"])?;
        let call = Call::put(path).query("incarnation", registered.incarnation).within(limits);
        let call = match adopted {
            Revision(0) => call,
            epoch => call.query("adopted", epoch),
        };
        self.send(call).await?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_written_as_the_api_reads_it() {
        let registration = Registration {
            ip: "10.0.0.1".into(),
            port: 8719,
            payload: vec![1, 2, 255],
            ttl: Some(Duration::from_millis(1_500)),
            ..Default::default()
        };
        assert_eq!(
            serde_json::to_string(&registration).expect("JSON"),
            r#"{"ip":"10.0.0.1","port":8719,"hostname":"","version":"","zone":"","metadata":{},"payload":"AQL/","ttl":"1500ms"}"#
        );
    }
}
