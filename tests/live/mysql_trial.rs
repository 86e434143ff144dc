//! A server with a binlog may refuse functions and triggers, and any server a table that needs what it lacks: nothing
//! makes room for them before it is sure that it does not.

use lifeboat::{
    flow::{Fit, FlowError, Weight, WriteOptions},
    policy::MysqlConfig,
};

use crate::{
    rows::Recorded,
    support::{Product, Server, own, target},
    swap::{Scene, WAS},
};

crate::on_both!(
    an_exchange_takes_nothing_away_that_could_not_be_made_again,
    nothing_makes_room_for_programs_that_could_not_be_made,
    nothing_makes_room_for_tables_that_could_not_be_made,
);

/// Makes an account that may do all but what a binlog asks of those who make programs.
async fn without_super(server: &Server, config: &MysqlConfig, name: &str) -> (String, MysqlConfig) {
    let user = own(name);
    server
        .run([
            format!("CREATE USER {user} IDENTIFIED BY 'x'"),
            format!("GRANT ALL ON *.* TO {user} WITH GRANT OPTION"),
            format!("REVOKE SUPER ON *.* FROM {user}"),
        ])
        .await;
    let config = server.as_user(config.clone(), &user, "x");
    (user, config)
}

async fn an_exchange_takes_nothing_away_that_could_not_be_made_again(product: Product) {
    let mut scene = Scene::new(product, "swap_trial").await;
    let (user, config) = without_super(&scene.server, &scene.config, "swap_trial_u").await;
    scene.config = config;
    // Of what comes only the trigger is refused, of what goes the function too.
    for only in [None, Some("users")] {
        let failure = scene.beside(only, WAS).await.run().await.expect_err("the server takes no trigger");
        let told = failure.chain().join(": ");
        assert!(told.contains("on trial") && told.contains("error 1419"), "{told}");
        let hints = failure.hints().join(" ");
        assert!(hints.contains("log_bin_trust_function_creators=1"), "{failure:?}");
        assert!(hints.contains("Everything is as it was before"), "{hints}");
        let beside = format!("DROP DATABASE {}{}", scene.db, crate::swap::BESIDE);
        scene.server.run([beside]).await;
    }
    scene.is_untouched().await;
    scene
        .server
        .run([
            format!("DELETE FROM {0}.users WHERE id = 7", scene.db),
            format!("DELETE FROM {0}.log", scene.db),
            format!("GRANT SUPER ON *.* TO {user}"),
        ])
        .await;
    scene.beside(None, WAS).await.run().await.expect("the exchange works");
    assert_eq!(scene.programs().await, "e,names,p,t1");
    assert_eq!(scene.tables(WAS).await, "extra,files,lifeboat_kept,log,users");
    let left = format!(
        "SELECT CONCAT(COUNT(*)) FROM information_schema.routines WHERE routine_schema = '{{db}}{WAS}'"
    );
    assert_eq!(scene.ask(&left).await, "0", "nothing on trial stays");
    scene.server.run([format!("DROP USER {user}")]).await;
    scene.end().await;
}

/// Restores as the program does: the target is asked first.
async fn replaced(recorded: &Recorded, config: &MysqlConfig) -> (Vec<String>, Result<(), FlowError>) {
    let options = WriteOptions { replace: true, ..WriteOptions::default() };
    let mut target = target(config);
    let found = recorded.preflight_with(&mut *target, &options).await;
    let blocks = found.remarks.into_iter().filter(|remark| remark.weight == Weight::Blocks);
    let blocks = blocks.map(|remark| format!("{}: {}", remark.what, remark.why)).collect();
    (blocks, recorded.write_to(target, options).await.map(|_| ()))
}

/// How many databases of our own are there.
const OURS: &str =
    "SELECT CONCAT(COUNT(*)) FROM information_schema.schemata WHERE schema_name LIKE 'lifeboat%'";

async fn nothing_makes_room_for_programs_that_could_not_be_made(product: Product) {
    // A server of its own: nobody else makes databases of ours there.
    let server = Server::empty(product).await;
    let db = &own("trial");
    let program = |name: &str| format!("CREATE FUNCTION {db}.{name}() RETURNS INT DETERMINISTIC RETURN 1");
    server
        .run([
            format!("CREATE DATABASE {db} CHARACTER SET utf8mb4"),
            format!("CREATE TABLE {db}.users (id INT PRIMARY KEY)"),
            format!("CREATE TABLE {db}.log_a (id INT PRIMARY KEY)"),
            program("f"),
            format!("CREATE PROCEDURE {db}.p() SELECT 1"),
        ])
        .await;
    let mut config = server.only(&[db]);
    let mut recorded = Recorded::read(&config).await;
    server.run([format!("INSERT INTO {db}.users VALUES (1)"), program("live")]).await;
    let state = format!(
        "SELECT CONCAT((SELECT COUNT(*) FROM {db}.users), (SELECT GROUP_CONCAT(routine_name ORDER BY routine_name) FROM \
         information_schema.routines WHERE routine_schema = '{db}'))"
    );
    let (user, _) = without_super(&server, &config, "trial_u").await;
    // A database that is dropped as a whole, and one that is emptied of all but a table.
    for exclude in [None, Some(format!("{db}.log_*"))] {
        config.exclude.extend(exclude);
        let (blocks, written) = replaced(&recorded, &server.as_user(config.clone(), &user, "x")).await;
        assert!(blocks.len() == 1 && blocks[0].contains("SUPER"), "{blocks:?}");
        let Err(FlowError::Failed(failure)) = written else { panic!("{written:?}") };
        assert!(failure.one_line().contains("function `f` on trial"), "{failure:?}");
        assert!(failure.hints().iter().any(|hint| hint.contains("nothing was touched")), "{failure:?}");
        assert_eq!(server.ask(&state).await, "1f,live,p");
        assert_eq!(server.ask(OURS).await, "0", "what it was tried with is gone");
    }
    // Who has SUPER cannot make one that does not say what it reads either.
    let routines = format!("{db}/routines.sql");
    recorded.replace(&routines, |script| script.replace("    DETERMINISTIC\n", ""));
    let (blocks, written) = replaced(&recorded, &config).await;
    assert!(blocks.len() == 1 && blocks[0].starts_with(&format!("function `f` of {db}: ")), "{blocks:?}");
    let Err(FlowError::Failed(failure)) = written else { panic!("{written:?}") };
    assert!(failure.hints().iter().any(|hint| hint.contains("READS SQL DATA")), "{failure:?}");
    assert_eq!(server.ask(&state).await, "1f,live,p");
    recorded.replace(&routines, |script| script.replace("RETURNS int\n", "RETURNS int\n    DETERMINISTIC\n"));
    recorded.replace(&routines, |script| {
        script.replace("RETURNS int(11)\n", "RETURNS int(11)\n    DETERMINISTIC\n")
    });
    let (blocks, written) = replaced(&recorded, &config).await;
    written.expect("an account with SUPER restores");
    assert_eq!((blocks, server.ask(&state).await), (Vec::new(), "0f,p".to_owned()));
    assert_eq!(server.ask(OURS).await, "0");
}

async fn nothing_makes_room_for_tables_that_could_not_be_made(product: Product) {
    // A server of its own: nobody else makes databases of ours there.
    let server = Server::empty(product).await;
    let db = &own("trial_t");
    let table =
        |name: &str| format!("CREATE TABLE {db}.{name} (id INT PRIMARY KEY, v TEXT, FULLTEXT KEY ft (v))");
    server.run([format!("CREATE DATABASE {db}"), table("fine"), table("odd"), table("odder")]).await;
    server.run([format!("INSERT INTO {db}.fine VALUES (1, 'a')")]).await;
    let config = server.only(&[db]);
    let before = Recorded::read(&config).await;
    let rows = format!("SELECT CONCAT(COUNT(*)) FROM {db}.fine");
    let tables = format!(
        "SELECT GROUP_CONCAT(table_name ORDER BY table_name) FROM information_schema.tables WHERE table_schema = '{db}'"
    );
    let (option, number) = match product {
        Product::Mysql => ("ENGINE=InnoDB TABLESPACE `lbt_gone`", "3510"),
        Product::Mariadb => ("ENGINE=InnoDB `ENCRYPTED`=YES", "1005"),
    };
    let parser = ("FULLTEXT KEY `ft` (`v`)", "FULLTEXT KEY `ft` (`v`) WITH PARSER `lbt_gone`");
    for (from, to, number) in [("ENGINE=InnoDB", option, number), (parser.0, parser.1, "1128")] {
        let mut recorded = Recorded::read(&config).await;
        server.run([format!("INSERT INTO {db}.fine VALUES (2, 'live')")]).await;
        for name in ["odd", "odder"] {
            recorded.replace(&format!("{db}/{name}/table.sql"), |script| script.replace(from, to));
        }
        let (blocks, written) = replaced(&recorded, &config).await;
        assert_eq!(blocks, [""; 0]);
        let Err(FlowError::Failed(failure)) = written else { panic!("{written:?}") };
        let (told, hints) = (failure.chain().join(": "), failure.hints().join(" "));
        assert!(told.contains(&format!("make `{db}.odd` on trial")) && told.contains(number), "{failure:?}");
        assert!(hints.contains("nothing was touched") && hints.contains("--leave-out-unfit"), "{failure:?}");
        assert_eq!(server.ask(&rows).await, "2", "what is live stays");
        assert_eq!(server.ask(OURS).await, "0", "what it was tried with is gone");
        // Who wants the rest gets it, and is told what did not come.
        let fit = Fit { leave_out: true, ..Fit::default() };
        let options = || WriteOptions { replace: true, fit: fit.clone(), ..WriteOptions::default() };
        let mut asked = target(&config);
        recorded.preflight_with(&mut *asked, &options()).await;
        let tally = recorded.write_to(asked, options()).await.expect("the rest comes");
        for name in ["odd", "odder"] {
            let told = format!("table {db}.{name} was left out: ");
            assert!(tally.notes.iter().any(|note| note.starts_with(&told)), "{:?}", tally.notes);
        }
        assert_eq!(tally.without, [format!("{db}.odd"), format!("{db}.odder")].into());
        assert_eq!((server.ask(&tables).await, server.ask(&rows).await), ("fine".to_owned(), "1".to_owned()));
        assert_eq!(server.ask(OURS).await, "0");
        // A server that lacks nothing takes all.
        let (blocks, written) = replaced(&before, &config).await;
        written.expect("all tables can be made");
        assert_eq!((blocks, server.ask(&tables).await), (Vec::new(), "fine,odd,odder".to_owned()));
    }
}
