"""headspring.models"""
