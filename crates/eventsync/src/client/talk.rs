//! The client's conversation with the server: one connection after the other, and what is said on it.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nodestorage::DocumentId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use super::{
    Applied, ClientStatus, Rejected,
    connection::{Connection, Lost, Said},
    shared::{Shared, encode, jittered},
};
use crate::{
    protocol::{ClientMessage, DocumentResume},
    service::now_ms,
};

/// The first pause before another attempt, which doubles up to the second.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long the server may be silent before it is asked whether it is there, and how long until it counts as gone.
const PING_AFTER: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(25);

/// Talks for ever, on the connections that `open` makes.
pub(super) async fn run<S, O>(shared: Arc<Shared>, open: impl Fn() -> O)
where
    S: AsyncRead + AsyncWrite + Unpin,
    O: Future<Output = Result<Connection<S>, Lost>>,
{
    let mut failures: u32 = 0;
    loop {
        let mut was_live = false;
        let mut pause_min = Duration::ZERO;
        let lost = match open().await {
            Ok(connection) => serve(&shared, connection, &mut was_live, &mut pause_min).await,
            Err(lost) => lost,
        };
        shared.cut_off(lost.too_big);
        shared.tell_status(false);
        failures = if was_live { 0 } else { failures.saturating_add(1) };
        tracing::debug!(lost.reason, failures, "the connection to the server is gone");
        // Clients that lost the same server do not all come back at once.
        let ceiling = PAUSE_MAX.min(PAUSE_MIN * 2_u32.saturating_pow(failures.min(16)));
        tokio::time::sleep(pause_min.max(ceiling.mul_f64(0.5 + rand::random::<f64>() / 2.0))).await;
    }
}

/// What the server says of itself when it greets.
struct Greeting {
    /// The largest message that it takes.
    message_bytes_max: usize,
    /// How far its clock is ahead of the one here. Clocks of clients may be hours off.
    clock_offset_ms: i64,
}

/// One connection, until it is lost.
#[expect(clippy::disallowed_methods, reason = "a driver notices silence")]
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    mut connection: Connection<S>,
    was_live: &mut bool,
    pause_min: &mut Duration,
) -> Lost {
    let mut shown = shared.token();
    let hello = ClientMessage::Hello {
        client_id: shared.options.client_id.clone(),
        token: shown.clone(),
        documents: BTreeMap::new(),
        collection: None,
    };
    if let Err(lost) = connection.send(encode(&hello)).await {
        return lost;
    }
    let mut heard = Instant::now();
    let mut asked = heard;
    let mut greeting: Option<Greeting> = None;
    loop {
        if greeting.is_some()
            && let Err(lost) = show_new_token(shared, &mut connection, &mut shown).await
        {
            return lost;
        }
        let mut again_at = None;
        if let Some(greeting) = &greeting {
            match send_what_there_is(shared, &mut connection, greeting, Instant::now()).await {
                Ok(next) => again_at = next,
                Err(lost) => return lost,
            }
        }
        let look_at = heard.max(asked) + PING_AFTER;
        tokio::select! {
            said = connection.next() => {
                heard = Instant::now();
                match said {
                    Ok(Said::Welcome { server_time, limits }) => {
                        // Whatever it says: a clock that is off by the age of the world is as good as none.
                        let signed = |time| i64::try_from(time).unwrap_or(i64::MAX);
                        let ahead = server_time.map_or(0, |time| signed(time).saturating_sub(signed(now_ms())));
                        greeting = Some(Greeting {
                            message_bytes_max: limits.message_bytes.unwrap_or(usize::MAX),
                            clock_offset_ms: ahead,
                        });
                    }
                    Ok(Said::Drain { reconnect_after_ms }) => {
                        *pause_min = Duration::from_millis(reconnect_after_ms).min(PAUSE_MAX);
                        connection.close().await;
                        return "the server goes down".into();
                    }
                    Ok(said) => {
                        if let Err(lost) = take(shared, said, heard) {
                            return lost;
                        }
                    }
                    Err(lost) => return lost,
                }
                shared.tell_status(greeting.is_some());
                *was_live |= *shared.status.borrow() == ClientStatus::Live;
            }
            () = shared.wanted.notified() => {}
            () = tokio::time::sleep_until(again_at.unwrap_or(look_at)), if again_at.is_some() => {}
            () = tokio::time::sleep_until(look_at) => {
                if heard.elapsed() > SILENCE_MAX {
                    return "the server is silent".into();
                }
                if let Err(lost) = connection.send(encode(&ClientMessage::Ping { id: None })).await {
                    return lost;
                }
                asked = Instant::now();
            }
        }
    }
}

/// Shows the token that has been set since the last one was shown.
async fn show_new_token<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    connection: &mut Connection<S>,
    shown: &mut Option<String>,
) -> Result<(), Lost> {
    let token = shared.token();
    if let Some(new) = token.clone().filter(|_| token != *shown) {
        *shown = token;
        connection.send(encode(&ClientMessage::Authenticate { token: new })).await?;
    }
    Ok(())
}

/// Subscribes to what was opened, and sends the oldest write of each document that has caught up. Tells when there is
/// something to be sent again.
async fn send_what_there_is<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    connection: &mut Connection<S>,
    greeting: &Greeting,
    now: Instant,
) -> Result<Option<Instant>, Lost> {
    let mut wanted = BTreeMap::new();
    let mut ready = Vec::new();
    let mut again_at: Option<Instant> = None;
    for (id, opened) in &mut *shared.documents() {
        if !opened.subscribed {
            (opened.subscribed, opened.live) = (true, false);
            opened.manager.clock_offset_ms = greeting.clock_offset_ms;
            let resume = opened.manager.resume();
            wanted.insert(id.clone(), if opened.afresh { DocumentResume::default() } else { resume });
        }
        if opened.live {
            let mut held = Vec::new();
            let push = opened.poll_push(now, greeting.message_bytes_max, &mut held);
            ready.push((id.clone(), push, held));
            again_at = [again_at, opened.again_at].into_iter().flatten().min();
        }
    }
    if !wanted.is_empty() {
        connection.send(encode(&subscribe(wanted))).await?;
        shared.tell_status(true);
    }
    for (id, push, held) in ready {
        // Kept before it is sent, also what a refusal has made of it.
        shared.keep(&id).await?;
        held.into_iter().for_each(|(problem, held)| shared.refused(&id, problem, Some(held)));
        if let Some(push) = push {
            connection.send(push).await?;
        }
    }
    Ok(again_at)
}

fn subscribe(documents: BTreeMap<DocumentId, DocumentResume>) -> ClientMessage {
    ClientMessage::Subscribe { documents, collection: None }
}

/// Takes in what the server said.
fn take(shared: &Shared, said: Said, now: Instant) -> Result<(), Lost> {
    let mut documents = shared.documents();
    let mut refused = None;
    let id = match said {
        Said::Events { document_id: Some(id), events } => {
            let Some(opened) = documents.get_mut(&id) else { return Ok(()) };
            let before = opened.manager.last_client_seq();
            for event in events {
                match opened.manager.on_event(&event) {
                    Ok(Applied::Merged | Applied::Known) => {}
                    Ok(Applied::Gap) => opened.subscribed = false,
                    Err(error) => {
                        opened.afresh = true;
                        return Err(format!("an event of {id} does not fit: {error}").into());
                    }
                }
            }
            opened.on_contained(before);
            opened.changes += 1;
            id
        }
        Said::Snapshot(snapshot) => {
            let Some(opened) = documents.get_mut(&snapshot.document_id) else { return Ok(()) };
            let before = opened.manager.last_client_seq();
            opened.manager.on_snapshot(&snapshot);
            opened.on_contained(before);
            opened.afresh = false;
            opened.changes += 1;
            snapshot.document_id
        }
        Said::Live { document_id: Some(id) } => {
            let Some(opened) = documents.get_mut(&id) else { return Ok(()) };
            opened.on_live(now);
            id
        }
        Said::Pushed { document_id, client_seq: Some(client_seq), version, repeated } => {
            let Some(opened) = documents.get_mut(&document_id) else { return Ok(()) };
            opened.on_answer(client_seq);
            let before = opened.manager.last_client_seq();
            opened.manager.on_pushed(client_seq, version, repeated);
            // Mostly there is an event to come, and nothing to keep before.
            opened.changes += u64::from(opened.manager.last_client_seq() != before);
            document_id
        }
        Said::Rejected { document_id, client_seq: Some(client_seq), problem, current } => {
            let Some(opened) = documents.get_mut(&document_id) else { return Ok(()) };
            opened.on_answer(client_seq);
            let resolver = &shared.options.resolver;
            match opened.manager.on_rejected(client_seq, &problem, current.as_ref(), resolver) {
                Rejected::Decided => refused = Some((problem, None)),
                Rejected::Held { id } => refused = Some((problem, Some(id))),
                Rejected::Kept { again_after } => opened.again_at = Some(now + jittered(again_after)),
            }
            opened.changes += 1;
            document_id
        }
        Said::Error { problem } => {
            tracing::warn!(detail = problem.detail, "the server did not like a message");
            return Ok(());
        }
        _ => return Ok(()),
    };
    drop(documents);
    match refused {
        Some((problem, held)) => shared.refused(&id, problem, held),
        None => shared.changed(&id),
    }
    Ok(())
}
