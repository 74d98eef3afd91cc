//! The names of messages, from the encoded protocol files.

use prost::Message;

#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    messages: Vec<Named>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// The messages of `package`.
pub(crate) fn of_package(package: &str) -> Vec<String> {
    let set = FileSet::decode(lattice_proto::DESCRIPTORS).unwrap();
    let files = set.files.into_iter().filter(|file| file.package == package);
    files.flat_map(|file| file.messages).map(|message| message.name).collect()
}
