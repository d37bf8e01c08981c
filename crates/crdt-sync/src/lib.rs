//! Every replica of a CRDT document gets every patch, whatever the network does.
