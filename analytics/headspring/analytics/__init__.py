"""headspring.analytics"""
