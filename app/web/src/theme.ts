/** Light and dark: the system's choice until the reader makes one, which this browser remembers. */

import { theme as antd, type ThemeConfig } from 'antd'
import { useEffect, useState, useSyncExternalStore } from 'react'

const KEY = 'theme'
const system = window.matchMedia('(prefers-color-scheme: dark)')
const FONTS = "system-ui, -apple-system, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', sans-serif"

const onSystem = (listener: () => void) => {
  system.addEventListener('change', listener)
  return () => system.removeEventListener('change', listener)
}

export function useDark(): [dark: boolean, toggle: () => void] {
  const systemDark = useSyncExternalStore(onSystem, () => system.matches)
  const [choice, setChoice] = useState(() => localStorage.getItem(KEY))
  const dark = choice ? choice === 'dark' : systemDark
  useEffect(() => {
    document.documentElement.dataset.theme = dark ? 'dark' : 'light'
  }, [dark])
  const toggle = () => {
    const next = dark ? 'light' : 'dark'
    localStorage.setItem(KEY, next)
    setChoice(next)
  }
  return [dark, toggle]
}

/** Return antd's theme; the same colours are in style.css. */
export function themeOf(dark: boolean): ThemeConfig {
  return {
    algorithm: dark ? antd.darkAlgorithm : antd.defaultAlgorithm,
    token: {
      colorPrimary: dark ? '#f2a65a' : '#a8530b',
      colorLink: dark ? '#f2a65a' : '#a8530b',
      colorBgBase: dark ? '#1c1916' : '#ffffff',
      colorBgContainer: dark ? '#272320' : '#ffffff',
      colorBgElevated: dark ? '#2b2622' : '#ffffff',
      colorTextBase: dark ? '#f1eae0' : '#2a241f',
      colorTextPlaceholder: dark ? '#aa9f92' : '#71675c',
      colorError: dark ? '#ff9a8f' : '#b3261e',
      borderRadius: 10,
      fontFamily: FONTS,
      fontSize: 15,
    },
    components: { Button: { primaryColor: dark ? '#1c1916' : '#ffffff', primaryShadow: 'none', defaultShadow: 'none' } },
  }
}
