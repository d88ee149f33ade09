"""headspring.ingestion"""
