"""headspring.action"""
