"""The document store on Elasticsearch 8; needs the extra `distributed`."""
