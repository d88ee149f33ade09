#!/bin/sh
# Runs once, in an empty data folder: Headspring's own role is no superuser, so row-level security binds it.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$HEADSPRING_PASSWORD" --username postgres <<'SQL'
CREATE ROLE headspring LOGIN NOSUPERUSER NOBYPASSRLS PASSWORD :'password';
CREATE DATABASE headspring OWNER headspring;
SQL
