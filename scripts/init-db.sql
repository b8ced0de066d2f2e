-- What PostgreSQL's image runs once, in a new and empty database: nobody but the owner sees what is in it. The tables are not made
-- here but by Parallax' own migrations, so that an older database gets them in the same way.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
