//! Every client gets every change of a document once and in order, live or after days offline.
