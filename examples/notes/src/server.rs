//! From the command line to a running replica, and down again in order.

use std::{future::Future, io::Write, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};

use crate::{
    door::Door,
    keys,
    options::Options,
    page::{self, App},
    repl::{self, Ended},
    replica::Replica,
    token::Token,
};

/// Where the page is without `--listen`.
const ADDRESS: &str = "127.0.0.1:8090";
/// Where it is if another program has that address.
const ANY_PORT: &str = "127.0.0.1:0";
/// How long requests may take to end; sockets of windows are cut, and the windows come again by themselves.
const DRAIN_MAX: Duration = Duration::from_secs(1);

/// Runs until it is told to stop. An error is one line for the user.
pub(crate) async fn run(options: &Options) -> Result<(), String> {
    // The port first: a second start by mistake must not touch the store of the first.
    let listener = listen(options).await?;
    let met = options.pubsub.meet(keys::cluster(options)?).await?;
    let how = met.how.clone();
    let replica = Arc::new(Replica::open(options, met).await?);
    let stop = stop_signal()?;
    let (stopping, stopped) = watch::channel(false);
    let mut page = None;
    let mut serving = None;
    if let Some(listener) = listener {
        let address = listener.local_addr().map_err(|error| format!("no address: {error}"))?;
        if !address.ip().is_loopback() && options.token.is_none() {
            tracing::warn!(%address, "NO AUTHENTICATION: whoever can reach this address can read and write");
        }
        let query = options.token.as_ref().map(|token| format!("/?token={token}"));
        page = Some(format!("http://{address}{}", query.unwrap_or_default()));
        let token = Token::new(options.token.as_deref());
        let router =
            page::router(App { replica: Arc::clone(&replica), doc: options.doc.as_str().into(), token });
        let mut stopped = stopped.clone();
        let served = axum::serve(Door::new(listener), router).with_graceful_shutdown(async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        });
        serving = Some(tokio::spawn(served.into_future()));
    }
    say_ready(options, page.as_deref(), &how, &replica);

    let ended = tokio::select! {
        ended = repl::run(&replica, options) => ended,
        () = stop => Ended::Quit,
    };
    if ended == Ended::InputClosed {
        // Nobody types here; the windows go on.
        stop_signal()?.await;
    }
    stopping.send_replace(true);
    replica.leave().await;
    if let Some(serving) = serving {
        let _ = tokio::time::timeout(DRAIN_MAX, serving).await;
    }
    Ok(())
}

async fn listen(options: &Options) -> Result<Option<TcpListener>, String> {
    let bind = |address: String| async move {
        let bound = TcpListener::bind(&address).await;
        bound.map_err(|error| format!("can't listen on {address}: {error}; --listen takes another address"))
    };
    match options.listen.as_deref() {
        Some("none") => Ok(None),
        Some(address) => bind(address.to_owned()).await.map(Some),
        None => match bind(ADDRESS.to_owned()).await {
            Ok(listener) => Ok(Some(listener)),
            Err(_) => bind(ANY_PORT.to_owned()).await.map(Some),
        },
    }
}

/// Resolves at ctrl-c or SIGTERM.
fn stop_signal() -> Result<impl Future<Output = ()>, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|error| format!("can't listen for signals: {error}"));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn say_ready(options: &Options, page: Option<&str>, how: &str, replica: &Replica) {
    let mut out = std::io::stdout().lock();
    let page = page.unwrap_or("no page");
    // Who reads this may be gone already; that is no reason to stop.
    let _ = writeln!(out, "Weft notes: {} at {page}, meeting {how}, kept in {}", options.doc, replica.kept);
    let _ = writeln!(out, "Type `help` for what you can do.");
    let _ = out.flush();
}
