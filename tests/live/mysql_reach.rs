//! The ways to a server.

use lifeboat::flow::{WriteOptions, pipe};

use crate::{
    on_both,
    support::{self, Product, Server},
};

on_both!(a_server_is_read_and_written_through_its_unix_socket);

async fn a_server_is_read_and_written_through_its_unix_socket(product: Product) {
    let server = Server::empty(product).await;
    server
        .run(["CREATE DATABASE im", "CREATE TABLE im.t (a int PRIMARY KEY)", "INSERT INTO im.t VALUES (7)"])
        .await;
    let mut config = server.only(&["im"]);
    config.socket = Some(server.socket());
    // Nobody answers there: only the socket is left.
    (config.host, config.port) = ("127.0.0.1".to_owned(), 9);
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    pipe(support::source(&config), support::target(&config), options).await.expect("the rows go round");
    assert_eq!(server.ask("SELECT a FROM im.t").await, "7");
}
