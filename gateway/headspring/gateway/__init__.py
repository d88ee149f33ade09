"""headspring.gateway"""
