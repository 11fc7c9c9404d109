/** Theme, language and content security policy around the application. */

import { App as Antd, ConfigProvider } from 'antd'
import zhCN from 'antd/locale/zh_CN'
import { App } from './App'
import { Boundary } from './Boundary'
import { themeOf, useDark } from './theme'

const nonce = document.querySelector<HTMLMetaElement>('meta[property="csp-nonce"]')?.nonce

export function Root() {
  const [dark, toggle] = useDark()
  return (
    <ConfigProvider locale={zhCN} theme={themeOf(dark)} csp={{ nonce }} button={{ autoInsertSpace: false }} wave={{ disabled: true }}>
      <Antd message={{ maxCount: 2 }}>
        <Boundary>
          <App dark={dark} toggleDark={toggle} />
        </Boundary>
      </Antd>
    </ConfigProvider>
  )
}
